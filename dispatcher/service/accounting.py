"""What jobs took and pilots were for, as users and operators ask for it: sums that commits keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.accounting import UsageOutcome, UsageQuery
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import usage_records
from dispatcher.rules.accounting import DAY_S, begin_of, part_of
from dispatcher.rules.usage_records import PilotTimeRecord, UsageRecord, UsedRecord
from dispatcher.service.state import State

# How far back is looked, unless it is said.
SINCE_S = 7 * DAY_S
FOR_EVER = 1e12
PARTS = ("user", "site", "queue")
LABEL = "label:"
_HOW = "write user, site, queue or label:NAME, separated by commas"


class _Wanted(Struct, frozen=True):
    """What is asked for, understood."""

    by: frozenset[str]
    label: str
    """The label by whose values, or for one value of which, is asked; blank: none."""
    value: str | None
    owner: str
    since: float
    until: float

    @property
    def of_pilots(self) -> bool:
        """Whether pilots can be told apart so: they serve all users."""
        return not self.label and not self.owner and "user" not in self.by


class _Sum(Struct):
    """What attempts took, in the units of the store."""

    attempts: float = 0
    finished: float = 0
    wall_ms: float = 0
    core_ms: float = 0
    cpu_ms: float = 0
    memory: float = 0
    peak: float = 0
    gpu: float = 0
    gpu_ms: float = 0
    wasted: dict[str, float] = field(default_factory=dict)
    pilots: dict[str, float] = field(default_factory=dict)

    def add(self, one: UsageRecord) -> None:
        self.attempts += one.n
        for name in ("wall_ms", "core_ms", "cpu_ms", "memory", "peak", "gpu", "gpu_ms"):
            setattr(self, name, getattr(self, name) + getattr(one, name))
        if one.outcome == UsageOutcome.FINISHED:
            self.finished += one.n
        elif one.core_ms:
            self.wasted[one.outcome] = self.wasted.get(one.outcome, 0) + one.core_ms

    def row(self, key: dict[str, str]) -> m.UsageRow:
        return m.UsageRow(
            key=key,
            attempts=round(self.attempts),
            finished=round(self.finished),
            wall_s=self.wall_ms / 1000,
            core_s=self.core_ms / 1000,
            cpu_s=self.cpu_ms / 1000,
            memory_mb_s=self.memory / 1000,
            peak_mb_s=self.peak / 1000,
            gpu_s=self.gpu / 100_000,
            gpu_busy_s=self.gpu_ms / 1000,
            wasted_core_s={name: ms / 1000 for name, ms in sorted(self.wasted.items())},
            pilot_core_s={name: ms / 1000 for name, ms in sorted(self.pilots.items())},
        )


class Accounting:
    """The part of the service that tells what was used."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def usage(self, ask: UsageQuery, caller: Caller) -> m.UsageSums:
        """What attempts took that ended in a time: the caller's own, or all for an administrator.
        Raises Rejected."""
        wanted = self._understood(ask, caller)
        values = {
            "since": wanted.since,
            "until": wanted.until,
            "queue": ask.queue,
            "site": ask.site,
        }
        of = {
            **values,
            "label": wanted.label,
            "value": wanted.value or "",
            "any_value": int(wanted.value is None),
            "owner": wanted.owner,
        }
        by = {f"by_{part}": int(part in wanted.by) for part in (*PARTS, "label")}
        of_pilots = {key: by[key] for key in ("by_site", "by_queue")}

        told = {name for name in ("queue", "site") if getattr(ask, name)}
        told |= {"user"} if wanted.owner else set()
        part, part_over_time = part_of(told | wanted.by & {*PARTS}), part_of(told)

        # A label may have a hundred thousand values: they are added up beside the event loop, too.
        def gather(tx: Tx) -> tuple[list[m.UsageRow], int, m.UsageRow, list[m.UsedThen]]:
            sums: list[UsageRecord] = []
            over_time: list[m.UsedThen] = []
            for span in ("month", "day", "hour"):
                hour = span == "hour"
                where = {"span": span, "part": "" if hour else part}
                sums += usage_records.sums(tx, **of, **by, **where)
                where["part"] = "" if hour else part_over_time
                over_time += _over_time(span, usage_records.over_time(tx, **of, **where))
            pilots = usage_records.pilot_sums(tx, **values, **of_pilots) if wanted.of_pilots else []
            return *_rows(sums, pilots, wanted, ask.limit), over_time

        rows, count, total, over_time = await self._state.store.read(gather)
        return m.UsageSums(
            since=wanted.since,
            until=min(wanted.until, self._state.now()),
            rows=tuple(rows),
            more=count - len(rows),
            total=total,
            over_time=tuple(over_time),
        )

    def _understood(self, ask: UsageQuery, caller: Caller) -> _Wanted:
        now = self._state.now()
        parts = [part for part in ask.by.split(",") if part]
        labels = [part.removeprefix(LABEL) for part in parts if part.startswith(LABEL)]
        name, equals, value = ask.label.partition("=")
        for part in parts:
            if part not in PARTS and not part.startswith(LABEL):
                raise Rejected(422, f"no sums by {part!r}", field="by", remedy=_HOW)
        if ask.label and not (name and equals):
            raise Rejected(422, "one value of a label is meant", field="label", remedy="NAME=VALUE")
        if len({*labels, *([name] if name else [])}) > 1 or "" in labels:
            raise Rejected(422, "sums are kept by one label at a time", field="by", remedy=_HOW)
        owner = ask.user
        if not caller.may(api.Scope.ADMIN):
            if owner not in ("", caller.subject):
                raise Rejected(
                    403, "what others use is for admins", field="user", remedy="leave it out"
                )
            owner = caller.subject
        until = ask.until or FOR_EVER
        return _Wanted(
            by=frozenset(part if part in PARTS else "label" for part in parts),
            label=labels[0] if labels else name,
            value=value if name else None,
            owner=owner,
            since=begin_of(ask.since or now - SINCE_S, now),
            until=until if until > now else begin_of(until, now),
        )


def _rows(
    sums: Sequence[UsageRecord], pilots: Sequence[PilotTimeRecord], wanted: _Wanted, most: int
) -> tuple[list[m.UsageRow], int, m.UsageRow]:
    """The greatest rows, how many there are, and all of them together."""
    found: dict[tuple[str, str, str, str], _Sum] = {}
    total = _Sum()
    for one in sums:
        for part in (found.setdefault((one.who, one.place, one.which, one.word), _Sum()), total):
            part.add(one)
    for spent in pilots:
        for part in (found.setdefault(("", spent.place, spent.which, ""), _Sum()), total):
            part.pilots[spent.reason] = part.pilots.get(spent.reason, 0) + spent.core_ms
    named: list[tuple[_Sum, dict[str, str]]] = []
    for values, one_sum in found.items():
        if not (one_sum.attempts or any(one_sum.pilots.values())):
            continue
        names = zip((*PARTS, "label"), values, strict=True)
        named.append((one_sum, {name: word for name, word in names if name in wanted.by}))
    named.sort(key=lambda one: (-one[0].core_ms, -one[0].attempts, sorted(one[1].items())))
    return [one_sum.row(key) for one_sum, key in named[:most]], len(named), total.row({})


def _over_time(span: str, found: Iterable[UsedRecord]) -> list[m.UsedThen]:
    """A column for each hour, day or month."""
    columns: dict[float, dict[str, float]] = {}
    for one in found:
        if one.core_ms:
            columns.setdefault(one.at, {})[one.outcome] = one.core_ms / 1000
    return [m.UsedThen(at=at, span=span, core_s=core_s) for at, core_s in columns.items()]
