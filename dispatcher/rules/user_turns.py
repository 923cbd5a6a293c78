"""Whose turn it is: users share a queue, however much one of them has submitted before the others.

Start-time fair queueing: each job gets a rank when it is submitted, its user's last rank and on by
what the job takes, but never behind the job whose turn it is now. Jobs of one priority are handed
out by rank, so a user with ten jobs waits for ten turns, not for ten thousand jobs of another. It
costs an acquire nothing: the rank stands in the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dispatcher.ports import Tx
from dispatcher.rules import records
from dispatcher.rules.group_turns import Turns, turns_of


def turns(jobs: Iterable[tuple[str, int]], share: float) -> tuple[list[float], dict[str, float]]:
    """How far into its queue's turns each job ends, and what they take in each queue.

    `jobs` are queues and cores: a job takes its cores by the share of its user.
    """
    taken: dict[str, float] = {}
    ends = []
    for queue, cores in jobs:
        taken[queue] = taken.get(queue, 0.0) + max(1, cores) / share
        ends.append(taken[queue])
    return ends, taken


def begin(
    tx: Tx, owner: str, takes: Mapping[str, float], group: str, turns: Turns
) -> dict[str, float]:
    """Take turns for a user, as many as it `takes` in each queue. Returns where they begin; the
    user's next turns begin behind them. Users of one group take turns among each other."""
    begins = {}
    for queue in sorted(takes):
        heads = [
            head
            for name, shape_id, _ in tx.all("counter.ready", queue=queue)
            if name == queue and turns.group(tx, shape_id) == group
            for (head,) in tx.all("share.head", queue=queue, shape_id=shape_id)
        ]
        line = turns_of(queue, group)
        mine = records.value(tx.one("share.get", queue=line, owner=owner), 0.0)
        last = records.value(tx.one("share.last", queue=line), 0.0)
        begins[queue] = max(min(heads) if heads else last, mine)
        tx.run("share.put", queue=line, owner=owner, rank=begins[queue] + takes[queue])
    return begins
