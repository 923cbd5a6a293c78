"""A payload that goes on when nodes of it are lost, and takes others that come while it runs.

Whoever tells of either waits for nothing: what has to be on a node before the payload can start
anything there is seen to by a thread of its own. The payload itself reads of its nodes in a file.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.blame import unexpected
from pilot.kit import Kit
from pilot.launching import RemoteShells
from pilot.node import gpus
from pilot.node.shares import Placement, Slot
from pilot.node_ports import Elastic
from pilot.payload import Part, Payload
from pilot.ports import Check, JobError
from pilot.workdir import LAUNCH, Workdir

_log = Log("pilot.elastic")


class ElasticPayload:
    """The payload of an attempt as what stops it sees it, and its thread."""

    def __init__(
        self,
        attempt: Attempt,
        payload: Payload,
        shells: RemoteShells,
        elastic: Elastic,
        work: Workdir,
        kit: Kit,
        place: Callable[[Placement, Check], Sequence[Part]],
    ) -> None:
        """`place`: the payload's parts in slots; it may take as long as an image, looks meanwhile
        whether they are still wanted, and raises JobError."""
        self._attempt, self._payload, self._shells = attempt, payload, shells
        self._elastic, self._work, self._kit, self._place = elastic, work, kit, place
        self._numbers = {part.node.name: nr for nr, part in enumerate(payload.parts, 1)}
        self._first, self._last_number = payload.parts[0].node.name, len(self._numbers)
        # Slots on nodes that came, names of nodes that are lost; None: the payload has ended.
        self._news: queue.SimpleQueue[Slot | str | None] = queue.SimpleQueue()
        self._over = False

    def signal(self, number: int) -> None:
        self._payload.signal(number)

    def outlives(self, node: str) -> bool:
        left = {part.node.name for part in self._payload.parts} - {node}
        if node == self._first or len(left) < self._elastic.least:
            return False
        self._payload.lose(node)
        self._news.put(node)
        return True

    @contextmanager
    def following(self) -> Iterator[None]:
        """Lose and gain nodes while this lasts. Raises JobError if the system gives no thread."""
        name = f"elastic-{self._attempt.name}"
        thread = threading.Thread(target=self._follow, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            raise JobError(
                Code.INTERNAL, "the pilot cannot start a thread", transient=True
            ) from None
        try:
            with self._kit.slots.growing(self._attempt, self._elastic.most, self._news.put):
                yield
        finally:
            self._over = True
            self._news.put(None)
            thread.join()

    def _follow(self) -> None:
        while (news := self._news.get()) is not None:
            try:
                if isinstance(news, str):
                    self._lose(news)
                else:
                    self._gain(news)
            except JobError as error:
                # Its slot stays the job's: otherwise that node would be given to it again.
                self._attempt.note(f"cannot use a node that came: {error}")
            except Exception as bug:  # noqa: BLE001 - the payload would wait for its nodes for ever
                _log.error("pilot_failed", trace=True, job_id=self._attempt.id[0])
                self._attempt.stop(unexpected(bug, "the pilot could not follow the job's nodes"))

    def _lose(self, node: str) -> None:
        # It may have been placed after it was lost.
        self._payload.lose(node)
        self._shells.lose(node)
        self._kit.supervisor.lose(self._attempt, node)
        if self._numbers.pop(node, None) is not None:
            self._attempt.node_changes.append(f"{node} was lost")
            self._tell("node_left_job", node)

    def _gain(self, slot: Slot) -> None:
        (part,) = self._place((slot,), self._check)
        self._shells.gain(part)
        self._kit.supervisor.gain(self._attempt, part.node, gpus.uuids(slot.gpus))
        self._payload.gain(part)
        self._last_number += 1
        self._numbers[slot.node] = self._last_number
        self._attempt.note(f"goes on with {slot.node}, too")
        self._attempt.node_changes.append(f"{slot.node} came")
        self._tell("node_came_to_job", slot.node)

    def _check(self) -> None:
        self._attempt.check()
        if self._over:
            raise JobError(Code.PAYLOAD_FAILED, "the payload has ended meanwhile")

    def _tell(self, event: str, node: str) -> None:
        """Let the payload know which nodes there are."""
        _log.info(event, job_id=self._attempt.id[0], node=node, nodes=len(self._numbers))
        text = "".join(f"{name} {number}\n" for name, number in self._numbers.items())
        try:
            self._work.replace(f"{LAUNCH}/{self._elastic.listed}", text)
        except (OSError, ValueError) as error:
            self._attempt.note(f"cannot write the list of the job's nodes: {error}")
