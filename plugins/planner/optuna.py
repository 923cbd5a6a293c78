"""Optuna as the planner of a search: `python -m plugins.planner.optuna WANTED SEED < QUESTION`.

The study is built anew from all points at each question, so there is nothing that could be lost: a
point with a loss is a complete trial, one that has failed a failed trial, and one that is being
evaluated a running trial, near which the sampler puts no other.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

CPU_S = 120
MEMORY_BYTES = 4 << 30
LONG_S = 20.0
"""After that long it answers with what it has: among 10,000 points a thousand take minutes."""
TRIES = 20
"""How often a sampler is asked for a point that is new."""


def main() -> None:
    """Answer one question."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(10)
    wanted, seed = map(int, sys.argv[1:])
    sys.stdout.write(json.dumps(plan(json.load(sys.stdin), wanted, seed)))


def plan(question: dict[str, Any], wanted: int, seed: int) -> list[dict[str, Any]]:
    """New points, none of them known: fewer than wanted where the space has no more, or where they
    take too long."""
    import optuna

    end = time.monotonic() + LONG_S
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {name: _distribution(one) for name, one in question["opt_space"].items()}
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    state = optuna.trial.TrialState
    failed = set(question.get("failed", ()))
    known = set()
    for nr, (point, loss) in enumerate(question["points"]):
        known.add(_key(point))
        how = state.FAIL if nr in failed else state.RUNNING if loss is None else state.COMPLETE
        if _within(point, space):
            study.add_trial(
                optuna.trial.create_trial(params=point, distributions=space, value=loss, state=how)
            )
    found: list[dict[str, Any]] = []
    while len(found) < wanted and not (found and time.monotonic() > end):
        for _ in range(TRIES):
            point = dict(study.ask(space).params)
            if _key(point) not in known:
                known.add(_key(point))
                found.append(point)
                break
        else:
            break
    return found


def _within(point: dict[str, Any], space: dict[str, Any]) -> bool:
    """Whether a point is one of the space. Where a user has begun with others, they tell a sampler
    nothing."""
    try:
        return set(point) == set(space) and all(
            one._contains(one.to_internal_repr(point[name]))  # noqa: SLF001
            for name, one in space.items()
        )
    except (TypeError, ValueError, OverflowError):
        return False


def _key(point: dict[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)


def _distribution(one: dict[str, Any]) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    method, said = one["method"], one["dimension"]
    if method == "categorical":
        return CategoricalDistribution(said["categories"])
    if method == "uniformint":
        return IntDistribution(said["low"], said["high"])
    return FloatDistribution(said["low"], said["high"], log=method == "loguniform")


if __name__ == "__main__":
    main()
