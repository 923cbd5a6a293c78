"""What attempts took, and pilots were for: sums that the commit keeps which ends an attempt.

They are kept by hour; what is older becomes part of a day's, later of a month's. Those are kept by
user, site and queue alone, too, so that a year is few rows. An attempt is summed up when it ends.
One that was lost and comes back is taken off again: its row in the store has what was added.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.accounting import UsageOutcome, outcome_of
from ailurus.protocol.states import AttemptState
from dispatcher.ports import Tx
from dispatcher.rules import usage_records
from dispatcher.rules.records import AttemptRecord, JobRecord
from dispatcher.rules.usage_records import OF_USAGE

HOUR_S, DAY_S = 3600, 86_400
# Sums by hour of yesterday and today, and by day of the last months, are kept as they are.
HOURS_KEPT_S = DAY_S
DAYS_KEPT_S = 100 * DAY_S
# CPU and GPUs that a payload can have used at the same time: a pilot may tell anything.
MOST_AT_ONCE = 4096
MOST_PEAK_MB = 10**9
# Values of an owner's label that are kept in a day or a month: those with the most core-seconds.
VALUES = 200
OTHERS = "…"
_encode = msgspec.json.Encoder().encode
_row = msgspec.json.Decoder(dict[str, Any]).decode
_occupancy = msgspec.json.Decoder(m.Occupancy).decode
OF_KEY, OF_SUMS = OF_USAGE[:7], OF_USAGE[7:]
# What a part of the sums keeps of a key: the part's name, and the columns that are blank in it.
PARTS = {
    "all": ("owner", "queue", "site"),
    "user": ("queue", "site"),
    "site": ("owner", "queue"),
    "queue": ("owner", "site"),
}
BUSY = "busy"
OTHER_REASON = "other"
_REASONS = frozenset(m.IdleReason)


def book(
    tx: Tx,
    job: JobRecord,
    attempt: AttemptRecord,
    state: AttemptState,
    *,
    code: int,
    usage: m.Usage | None,
    now: float,
) -> str | None:
    """Sum up an attempt that ends in `state`; what it was summed up as before, if it was lost, is
    taken off. Returns what its row is to keep."""
    unbook(tx, attempt)
    outcome = outcome_of(state, code)
    if outcome is None:
        return None
    ended = {
        "job_id": job.job_id,
        "at": float(now // HOUR_S * HOUR_S),
        "owner": job.owner,
        "queue": job.queue,
        "outcome": outcome,
        "n": 1.0,
        "shape_id": job.shape_id,
        "worker_id": attempt.worker_id,
        **_taken(attempt, usage, now),
    }
    if outcome is not UsageOutcome.LOST:
        tx.spend(ended)
        return None
    # Its job may come into another queue and lane before it is taken off.
    of = usage_records.sizes(
        tx, job_id=job.job_id, shape_id=job.shape_id, worker_id=attempt.worker_id
    )
    ended |= {name: getattr(of, name) for name in ("site", "cores", "memory_mb", "gpus", "nodes")}
    ended["queue"] = job.queue or of.worker_queue
    tx.spend(ended)
    return _encode(ended).decode()


def unbook(tx: Tx, attempt: AttemptRecord) -> None:
    """Take off what an attempt was summed up as when it was lost."""
    if attempt.booked is not None:
        tx.spend({**_row(attempt.booked), "n": -1.0})


def _taken(attempt: AttemptRecord, usage: m.Usage | None, now: float) -> dict[str, float]:
    """What an attempt took: by its pilot's figures, within what our own clock allows; without them
    the time since it ran. Whole numbers."""
    longest = max(0.0, now - attempt.leased)
    if usage is not None and usage.wall_s > 0:
        wall_s = min(usage.wall_s, longest)
    else:
        wall_s = min(longest, max(0.0, now - (now if attempt.running is None else attempt.running)))
    usage = usage or m.Usage()
    most_s = MOST_AT_ONCE * longest
    peak_mb = max(usage.max_pss_kb, usage.max_rss_kb) // 1024
    return {
        "wall_ms": float(round(1000 * wall_s)),
        "cpu_ms": float(round(1000 * min(max(0.0, usage.cpu_s), most_s))),
        "gpu_ms": float(round(1000 * min(max(0.0, usage.gpu_s), most_s))),
        "peak_mb": float(min(peak_mb, MOST_PEAK_MB)),
    }


def occupied(tx: Tx, told: Mapping[int, m.Occupancy], *, now: float) -> None:
    """Add to the sums what these workers' core-seconds have become since they told last; to be
    called before it is stored what they tell now."""
    at = float(now // HOUR_S * HOUR_S)
    sums: dict[tuple[str, str, str], float] = {}
    for one in usage_records.occupations(tx, sorted(told)):
        old = _core_ms(_occupancy(one.occupancy)) if one.occupancy else {}
        new = _core_ms(told[one.worker_id])
        for reason in {*old, *new}:
            key = (one.site, one.queue, reason)
            # Less than before, if they came out of order: then more the next time.
            sums[key] = sums.get(key, 0.0) + new.get(reason, 0.0) - old.get(reason, 0.0)
    tx.many(
        "pilot_time.add",
        [
            {
                "at": at,
                "span": "hour",
                "site": site,
                "queue": queue,
                "reason": reason,
                "core_ms": ms,
            }
            for (site, queue, reason), ms in sorted(sums.items())
            if ms
        ],
    )


def _core_ms(told: m.Occupancy) -> dict[str, float]:
    """Core-milliseconds by reason, `BUSY` being one; reasons that we do not know are one."""
    found = {BUSY: float(round(1000 * told.busy_core_s))}
    for reason, seconds in told.idle_core_s.items():
        name = reason if reason in _REASONS else OTHER_REASON
        found[name] = found.get(name, 0.0) + round(1000 * seconds)
    return found


# --- spans ----------------------------------------------------------------------------------------


def month_of(at: float) -> float:
    """Where the month of a time begins (UTC)."""
    year, month, *_ = time.gmtime(at)
    return float(calendar.timegm((year, month, 1, 0, 0, 0)))


def day_of(at: float) -> float:
    """Where the day of a time begins (UTC)."""
    return float(at // DAY_S * DAY_S)


def begin_of(at: float, now: float) -> float:
    """Where the hour, day or month begins of which there are sums for a time."""
    if at >= day_of(now - HOURS_KEPT_S):
        return float(at // HOUR_S * HOUR_S)
    return day_of(at) if at >= month_of(now - DAYS_KEPT_S) else month_of(at)


def tidy(tx: Tx, *, now: float) -> bool:
    """Make an hour that is old enough part of its day, or a day of its month. Whether there was
    one."""
    days, months = day_of(now - HOURS_KEPT_S), month_of(now - DAYS_KEPT_S)
    for span, before, longer, of in (
        ("hour", days, "day", day_of),
        ("day", months, "month", month_of),
    ):
        if (old := usage_records.taken(tx, "usage", span, before)) is not None:
            rows = _few_values(old[1])
            rows = _parts(rows) if span == "hour" else rows
            place = {"span": longer, "at": of(old[0])}
            tx.many("usage.put", [{**row, **place} for row in rows])
            return True
        if (old := usage_records.taken(tx, "pilot_time", span, before)) is not None:
            place = {"span": longer, "at": of(old[0])}
            tx.many("pilot_time.add", [{**row, **place} for row in old[1]])
            return True
    return False


def _few_values(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of their keys; of an owner's label those with the rarer values become
    `OTHERS`: users write what they like, and sums are kept for ever."""
    most: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["label"]:
            values = most.setdefault((row["owner"], row["label"]), {})
            values[row["value"]] = values.get(row["value"], 0.0) + row["core_ms"]
    kept = {
        key: set(sorted(values, key=lambda value: -values[value])[:VALUES])
        for key, values in most.items()
        if len(values) > VALUES
    }
    for row in rows:
        of_label = kept.get((row["owner"], row["label"]))
        if of_label is not None and row["value"] not in of_label:
            row["value"] = OTHERS
    return sorted(rows, key=lambda row: [row[name] for name in OF_KEY])


def _parts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, and their sums by less of their keys."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for part, blank in PARTS.items():
        for row in rows:
            less = {**row, "part": part, **dict.fromkeys(blank, "")}
            key = tuple(less[name] for name in OF_KEY)
            if (there := found.get(key)) is None:
                found[key] = less
            else:
                for name in OF_SUMS:
                    there[name] += row[name]
    return [*rows, *(found[key] for key in sorted(found))]


def part_of(names: Collection[str]) -> str:
    """The part of the sums of days and months that tells apart what has these names: `user`,
    `site`, `queue`."""
    if len(names) > 1:
        return ""
    return next(iter(names), "all")
