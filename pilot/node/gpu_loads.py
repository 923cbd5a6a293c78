"""How busy the GPUs of payloads are. A driver that hangs hangs whoever asks it, so that is a thread
which nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pilot.node.gpu_types import Load

if TYPE_CHECKING:
    from pilot.node.nvml import Nvml

EVERY_S = 5.0


def load_library() -> Nvml | None:
    # Late: ctypes is of no use to a node without a GPU.
    from pilot.node import nvml

    return nvml.loaded()


class GpuLoads:
    """What NVML said last of the devices that somebody has asked for."""

    def __init__(self, load: Callable[[], Nvml | None] = load_library) -> None:
        self._load = load
        self._nvml: Nvml | None = None
        self._wanted: set[str] = set()
        self._known: dict[str, Load] = {}
        self._asking: threading.Thread | None = None
        self._next = 0.0

    def of(self, uuids: Sequence[str], now: float) -> Load | None:
        """How busy these devices are together; None: not known, or not yet."""
        self._wanted |= set(uuids)
        if now >= self._next and not (self._asking and self._asking.is_alive()):
            self._next = now + EVERY_S
            self._asking = threading.Thread(target=self._ask, name="gpus", daemon=True)
            self._asking.start()
        known = [self._known[uuid] for uuid in uuids if uuid in self._known]
        if not known:
            return None
        return Load(
            busy=sum(load.busy for load in known), memory_mb=sum(load.memory_mb for load in known)
        )

    def forget(self, uuids: Sequence[str]) -> None:
        """Nobody uses these any more."""
        self._wanted -= set(uuids)
        for uuid in uuids:
            self._known.pop(uuid, None)

    def _ask(self) -> None:
        # Loaded once: it takes seconds where the driver is not kept ready.
        if self._nvml is None and (found := self._load()) is not None:
            self._nvml = found
        if self._nvml is not None:
            for uuid in sorted(self._wanted):
                self._known[uuid] = self._nvml.load((uuid,))
