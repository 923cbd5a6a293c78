"""The run of a job that carries items: lease, start, tell, until all have ended.

One thread, the job's own, decides; what ends and what the dispatcher answers come to it by a queue.
A second one waits for the dispatcher.
"""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import InputFile
from pilot.attempt import Attempt
from pilot.blame import GUARDIAN_DIED
from pilot.items.coming import Coming, Place, box
from pilot.items.command import argv, environment, need
from pilot.items.exchange import ItemExchange
from pilot.items.idle import IdleCores
from pilot.items.inputs import Brought, HasInputs, ItemInputs, refusal
from pilot.items.item import Item, exit_code, judged, key_of, told_end
from pilot.items.logs import JobStreams, Seats
from pilot.items.news import Answered, LookedAt, News, NodeCame, NodeLost, Wake
from pilot.items.outputs import ItemOutputs
from pilot.node import gpus, topology
from pilot.node.at_once import on_all
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from pilot.node.shares import Placement, Slot
from pilot.node_ports import SILENT, Finish, Standing, Task
from pilot.payload import Part
from pilot.ports import Check, JobError, ProcessEnd
from pilot.workdir import Workdir

if TYPE_CHECKING:
    from pilot.kit import Kit

TERM_S = 5.0
"""Between TERM and KILL for an item whose time is over."""
_LOOK_S = 1.0


def run_items(
    attempt: Attempt,
    script: Sequence[str],
    work: Workdir,
    places: Sequence[tuple[Slot, Part]],
    kit: Kit,
    place: Place,
) -> None:
    """Run the items of a job in its slots, until all have ended or the job is stopped. `script`:
    the words that start the job's script; `place`: the job's parts in slots on nodes that come
    back. Raises JobError."""
    run = _Run(attempt, script, work, places, kit, place)
    try:
        run.open()
        attempt.start_payload(lambda: run)
        try:
            with kit.slots.growing(attempt, len(places), run.gained):
                run.loop()
        finally:
            attempt.payload_ended()
    finally:
        run.close()


class _Run:
    """The state of such a run. `signal` may be called by any thread."""

    def __init__(
        self,
        attempt: Attempt,
        script: Sequence[str],
        work: Workdir,
        places: Sequence[tuple[Slot, Part]],
        kit: Kit,
        place: Place,
    ) -> None:
        self._attempt, self._script, self._work, self._kit = attempt, script, work, kit
        self._parts = {slot.node: part for slot, part in places}
        self._each = places[0][0].need
        self._packer: Packer[Item] = Packer()
        for slot, _ in places:
            self._use(slot)
        self._inbox: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._standing: dict[str, Standing] = {}
        self._seats = {slot.node: Seats() for slot, _ in places}
        self._kept = JobStreams(work)
        self._outputs = ItemOutputs(attempt, work, partial(kit.stage.takes, attempt, work))
        capacity = sum(slot.need.cores for slot, _ in places)
        # Ended before its job when nobody needs an input any more.
        self._transfers = attempt.beside()
        self._inputs = ItemInputs(self._bring, work.remove, self._inbox.put, capacity)
        # Nodes that are lost and have no box again; any thread adds to it.
        self._gone: set[str] = set()
        self._coming = Coming(attempt, work, place, self._inbox.put)
        self._running, self._waiting = set[Item](), set[Item]()
        self._cpu_s = 0.0
        self._idle = IdleCores(attempt, self._packer, kit.clock)
        self._exchange = ItemExchange(attempt, kit, capacity, self._inbox)

    def open(self) -> None:
        """Let a box stand on each node, and ask for the first items meanwhile. Raises JobError."""
        self._exchange.open()
        self._exchange.turn(0, self._running, self._kit.clock.monotonic())
        on_all([partial(self._stand, name) for name in self._parts], self._attempt.check)

    def _stand(self, name: str, check: Check) -> None:
        # What stands is closed, whatever becomes of the others.
        self._standing[name] = box(self._attempt, self._work, self._parts[name], check)

    def close(self) -> None:
        self._exchange.hang_up()
        self._transfers.stop(JobError(Code.PAYLOAD_FAILED, "no payload needs it any more"))
        self._inputs.close()
        self._coming.close()
        # None does, unless the pilot itself failed.
        for item in self._running:
            self._standing[item.node].signal(item.key, signal.SIGKILL)
        for standing in self._standing.values():
            standing.close()
        self._coming.clear()
        attempt, outputs = self._attempt, self._outputs
        if outputs.files:
            attempt.of_items = outputs.items
            attempt.spec = replace(attempt.spec, outputs=(*attempt.spec.outputs, *outputs.files))
        self._exchange.close()
        usage = attempt.usage
        attempt.usage = replace(usage, cpu_s=round(max(usage.cpu_s, self._cpu_s), 3))

    # what an attempt stops its payload by ---

    def signal(self, number: int) -> None:
        # A job that is asked to end, and not stopped, goes on with the items that still wait.
        if self._attempt.stopped is not None:
            self._transfers.stop(JobError(Code.PAYLOAD_FAILED, "its job is to stop"))
        for item in list(self._running):
            self._standing[item.node].signal(item.key, number)
        self._inbox.put(Wake())

    def gained(self, slot: Slot) -> None:
        """A node of the job is there again. Any thread may call this; it takes no time."""
        self._coming.begin(slot)

    def outlives(self, node: str) -> bool:
        self._coming.lost(node)
        self._gone.add(node)
        # Without any, whoever told of the loss says why the job ends.
        if others := len(self._gone) < len(self._parts):
            self._inbox.put(NodeLost(node))
        return others

    # the loop ---

    def loop(self) -> None:
        clock = self._kit.clock
        while not self._over():
            now = clock.monotonic()
            if self._attempt.stopped is None:
                self._bring_inputs()
                self._start(now)
            # On disk before they are told, and only once slots are busy again: it may be slow.
            self._exchange.keep()
            if self._attempt.stopped is None:
                self._exchange.turn(len(self._waiting), self._running, now)
                self._exchange.show(self._running, self._standing, now)
            self._kill_late(now)
            try:
                news = self._inbox.get(timeout=_LOOK_S)
            except queue.Empty:
                self._idle.count()
                continue
            self._idle.count()
            self._take(news)
            # Nobody else takes anything from it.
            while not self._inbox.empty():
                self._take(self._inbox.get())

    def _over(self) -> bool:
        if self._attempt.stopped is not None:
            return not self._running and not self._exchange.busy
        return self._exchange.settled and not self._running

    def _take(self, news: News) -> None:
        if isinstance(news, tuple):
            self._end(*news)
        elif isinstance(news, LookedAt):
            self._exchange.seen(news, self._running)
        elif isinstance(news, Brought):
            # What a job that is to stop did not bring says nothing of its items.
            if self._attempt.stopped is None:
                self._pack_all([*self._inputs.brought(news)])
        elif isinstance(news, NodeLost):
            # What runs there ends by itself.
            self._kit.supervisor.lose(self._attempt, news.node)
            self._lose(news.node)
        elif isinstance(news, NodeCame):
            self._join(news)
        elif isinstance(news, Answered):
            self._exchange.answered(news.answer)
            if news.answer is not None:
                self._answered(news.answer)
            elif news.error is not None:
                self._attempt.stop(news.error)

    def _answered(self, answer: m.ItemsAnswer) -> None:
        for lease in answer.items:
            item = Item(lease)
            if (error := self._refusal(lease.spec)) is not None:
                self._refuse(item, error)
                continue
            self._waiting.add(item)
            if lease.spec.inputs:
                self._inputs.want(item)
            else:
                self._pack(item)
        self._refuse_impossible()
        if answer.stop:
            self._stop({(one.index, one.attempt) for one in answer.stop})

    def _refusal(self, spec: ItemSpec) -> JobError | None:
        if not (spec.outputs or spec.inputs):
            return None
        try:
            self._kit.stage.allowed(self._attempt, spec)
        except JobError as error:
            return error
        return refusal(spec.inputs)

    def _pack(self, item: Item) -> None:
        spec = item.lease.spec
        wish = Wish(
            need(spec, self._each),
            estimate_s=spec.estimate_s or 0.0,
            limit_s=float(spec.walltime_s or 0),
        )
        self._packer.add(item, wish)

    def _pack_all(self, ready: Iterable[HasInputs]) -> None:
        """Let items begin that have their inputs."""
        for one in ready:
            if one.error is None:
                self._pack(one.item)
            else:
                self._refuse(one.item, one.error)
        self._refuse_impossible()

    def _bring(self, file: InputFile) -> None:
        # They may have been renewed.
        self._transfers.credentials = self._attempt.credentials
        self._kit.stage.bring(self._transfers, self._work, file)

    def _bring_inputs(self) -> None:
        """Look after the inputs of as many items as may be looked after ahead."""
        while ready := [*self._inputs.turn()]:
            self._pack_all(ready)

    def _refuse_impossible(self) -> None:
        for item in self._packer.impossible():
            self._packer.remove(item)
            self._refuse(
                item, JobError(Code.PAYLOAD_FAILED, "it asks for more than its job has on a node")
            )

    def _stop(self, keys: set[tuple[int, int]]) -> None:
        for item in [one for one in self._waiting if key_of(one) in keys]:
            self._packer.remove(item)
            self._waiting.discard(item)
            self._inputs.over(item)
        for item in self._running:
            if key_of(item) in keys:
                self._standing[item.node].signal(item.key, signal.SIGKILL)

    def _start(self, now: float) -> None:
        """Start what fits, with one message a node."""
        if not self._waiting:
            return
        tasks: dict[str, list[tuple[Item, Task]]] = {}
        for item, placement in self._packer.take(now):
            self._waiting.discard(item)
            item.node, item.began = placement[0].node, now
            item.seat = self._seats[item.node].take()
            self._running.add(item)
            tasks.setdefault(item.node, []).append((item, self._task(item, placement)))
            if item.lease.spec.walltime_s is not None:
                item.kill_at = now + item.lease.spec.walltime_s
            if item.lease.spec.inputs:
                self._inputs.begun(item)
                # It is another's turn.
                self._inbox.put(Wake())
        for node, several in tasks.items():
            orders = [(task, partial(self._done, item)) for item, task in several]
            keys = self._standing[node].start_all(orders)
            for (item, _), key in zip(several, keys, strict=True):
                item.key = key

    def _done(self, item: Item, finish: Finish) -> None:
        self._inbox.put((item, finish))

    def _task(self, item: Item, placement: Placement) -> Task:
        slot = placement[0]
        spec = self._attempt.spec
        script = self._script if spec.script else ()
        fixed = gpus.visible(slot.gpus, spec.gpu_share)
        return Task(
            argv=argv(item.lease.spec, spec.command, script),
            environment=environment(item.lease, self._attempt.name, fixed),
            seat=item.seat,
            cpus=slot.cpus,
            memory_mb=item.lease.spec.memory_mb or 0,
        )

    def _kill_late(self, now: float) -> None:
        for item in self._running:
            if now < item.kill_at:
                continue
            first = item.killed is None
            item.killed = JobError(
                Code.WALLTIME,
                f"it ran longer than its {item.lease.spec.walltime_s} s",
                remedy="give it a longer `walltime`",
            )
            item.kill_at = now + TERM_S
            number = signal.SIGTERM if first else signal.SIGKILL
            self._standing[item.node].signal(item.key, number)

    def _end(self, item: Item, finish: Finish) -> None:
        end = finish.process
        self._running.discard(item)
        self._packer.give_back(item)
        self._cpu_s += end.cpu_s
        if end.errno == GUARDIAN_DIED and not end.before:
            self._lose(item.node)
        outcome, error = judged(item, end, finish.memory, stopped=self._attempt.stopped is not None)
        if outcome is ItemOutcome.FINISHED and item.lease.spec.outputs:
            try:
                self._outputs.ended(item.lease.index, item.lease.spec)
            except JobError as missing:
                outcome, error = ItemOutcome.FAILED, missing
        if item.lease.spec.inputs:
            self._inputs.over(item)
        index, failed = item.lease.index, outcome is not ItemOutcome.FINISHED
        tails = "", ""
        if (wrote := finish.take()) != SILENT:
            title = f"item {index}, attempt {item.lease.attempt}: exit code {exit_code(end)}"
            self._exchange.wrote(item, wrote)
            tails = self._kept.add(title, wrote, failed=failed)
        self._seats[item.node].give_back(item.seat)
        self._tell_end(item, outcome, error, end, tails)

    def _tell_end(
        self,
        item: Item,
        outcome: ItemOutcome,
        error: JobError | None,
        end: ProcessEnd | None = None,
        tails: tuple[str, str] = ("", ""),
    ) -> None:
        now = self._kit.clock.time()
        told = told_end(item, outcome, error, end, now, tails)
        self._exchange.tell(told if told.host else replace(told, host=self._kit.host))

    def _refuse(self, item: Item, error: JobError) -> None:
        """End an item that has not begun."""
        self._waiting.discard(item)
        self._inputs.over(item)
        self._tell_end(item, ItemOutcome.FAILED, error)

    def _join(self, came: NodeCame) -> None:
        """Start items on a node that has come."""
        slot, part = came.slot, came.part
        self._parts[slot.node], self._standing[slot.node] = part, came.standing
        self._gone.discard(slot.node)
        self._use(slot)
        self._kit.supervisor.gain(self._attempt, part.node, gpus.uuids(slot.gpus))
        self._attempt.note(f"goes on with {slot.node}, too")

    def _use(self, slot: Slot) -> None:
        room = replace(slot.need, disk_mb=0, gpu_share=0)
        self._packer.join(slot.node, room, topology.alone(slot.pinned), slot.gpus)

    def _lose(self, node: str) -> None:
        """What items ran in on a node is gone: start none there, and end when none is left."""
        self._packer.leave(node)
        if not any(self._packer.nodes()):
            error = JobError(
                Code.PAYLOAD_FAILED,
                f"what its payloads run in on {node or self._kit.host} has ended",
                remedy="does one of them kill processes that it has not started?",
                transient=True,
            )
            self._attempt.stop(error)
