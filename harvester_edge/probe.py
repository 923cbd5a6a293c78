"""Has a pilot try what jobs of the site need, storage, catalogue and container: on this machine, or
in a job of a few minutes on a node.

The pilot answers a line a question (`ailurus.protocol.finding`); the last line says that there are
no more. A probe job has a tag that no worker of the site has, so an edge takes no notice of it.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.finding import PROBE, Finding
from ailurus.protocol.worker import Phase
from harvester_edge import credential, owned, pilot_file
from harvester_edge.edge import TAG_LENGTH, make_batch
from harvester_edge.launch import order_of, trust_options
from harvester_edge.ports import DIGITS, Batch, BatchError, BatchId, Rejected, Sighting, Tag
from harvester_edge.render import Launch, probe_script, probe_words
from harvester_edge.shared_files import (
    content,
    own_directories,
    pilot_program,
    site_file,
    write_site_file,
)
from harvester_edge.site import Site

QUIET_S, MOST_S = 250.0, 480.0
"""A pilot that answers nothing for so long hangs: it gives up any question of its own sooner. One here
that still answers is given up after the second time."""
LEAVE_S = 20.0
"""Between TERM and KILL: so long it may take to remove what it has written."""
WALLTIME_S = 900
ARRIVE_S = 30.0
"""A file that a node has written may take so long to be seen here."""
NOT_LISTED_S = 60.0
"""A job that no listing has shown for so long has ended."""
OLD_S = 86_400.0
_STDOUT_BYTES = 1 << 20
_findings = msgspec.json.Decoder(Finding)


class ProbeRequest(Struct, frozen=True, kw_only=True):
    """What is tried, and where."""

    image: str = ""
    """Of the container; empty: what the pilot finds at the site."""
    slot: str | None = None
    """Of the job that tries it on a node; empty: the site's first; None: this machine tries it."""
    wait_s: float = 600.0
    """For that job, queue included."""


def probe(site: Site, how: ProbeRequest) -> Iterator[Finding]:
    """What a pilot says; the last finding is about the probe itself."""
    asked = _here(site, how.image) if how.slot is None else _on_node(site, how)
    try:
        yield from asked
    except AilurusError as error:
        yield _bad(error.message, error.remedy)
    except OSError as error:
        yield _bad(f"{error.filename}: {error.strerror}")


def _bad(said: str, remedy: str = "") -> Finding:
    return Finding(about=PROBE, verdict="bad", said=said, remedy=remedy)


def _launch(site: Site, slot: str, program: str, file: Path, work: str, directory: Path) -> Launch:
    return Launch(
        program=program,
        url="",
        queue=site.slots[slot].queue,
        slot=slot,
        site_file=file,
        work=work,
        directory=directory,
        lifetime_s=WALLTIME_S,
        idle_exit_s=0,
        trust=trust_options(site),
    )


# -- here ------------------------------------------------------------------------------------------


def _here(site: Site, image: str) -> Iterator[Finding]:
    with TemporaryDirectory(prefix="ailurus-probe-") as name:
        folder = Path(name)
        sources = {name: expanded(path) for name, path in site.credentials.items()}
        (file := folder / "site.json").write_bytes(content(site, sources))
        how = _launch(
            site, next(iter(site.slots)), _program_here(site), file, str(folder / "work"), folder
        )
        yield from _answers(probe_words(how, image), folder)


def _program_here(site: Site) -> str:
    """The pilot that nodes get, or what the edge will hand out to them."""
    program = pilot_program(site)
    if site.pilot.file is not None and not Path(program).exists():
        return expanded(site.pilot.file)
    return program


def _answers(words: Sequence[str], folder: Path) -> Iterator[Finding]:
    """Run a pilot, and hand on its answers as they come."""
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
        )
    told = 0
    began = heard_at = time.monotonic()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            found = _read(folder / "stdout")
            yield from found[told:]
            heard_at = time.monotonic() if len(found) > told else heard_at
            told = len(found)
            if process.returncode is not None and told == len(_read(folder / "stdout")):
                break
            if time.monotonic() - heard_at > QUIET_S:
                yield _hangs("the pilot")
                return
            if time.monotonic() - began > MOST_S:
                yield _bad(
                    f"the pilot was not done after {MOST_S:.0f} s, and is ended",
                    "look at what is wrong above first: each of it cost its time",
                )
                return
    finally:
        _end(process)
    if not _complete(found):
        said = f"the pilot ended with exit code {process.returncode}"
        yield _bad(_with_last_words(said, folder / "stderr"), "is it as new as this edge?")


def _hangs(who: str) -> Finding:
    said = f"{who} has said nothing for {QUIET_S:.0f} s, and is ended"
    return _bad(said, "what it tried after its last answer hangs: look at that storage or mount")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it clear up, then kill it; its guardian ends what it has started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- on a node -------------------------------------------------------------------------------------


def _on_node(site: Site, how: ProbeRequest) -> Iterator[Finding]:
    slot = how.slot or next(iter(site.slots))
    if slot not in site.slots:
        raise AilurusError(f"the site has no slot {slot}", remedy=f"known: {', '.join(site.slots)}")
    root = site.shared / "probes"
    own_directories(site)
    owned.own(root, "paths.shared")
    _forget_old(root)
    pilot_file.hand_out(site)
    credential.hand_out(site, time.time())
    write_site_file(site)
    prefix = f"p{site.tag_prefix[1:]}"
    tag = Tag(prefix + "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH - len(prefix))))
    place = root / tag
    owned.make(place / "0")
    batch = make_batch(site, root, prefix)
    work = expanded(site.paths.work)
    launch = _launch(site, slot, pilot_program(site), site_file(site), work, place)
    order = replace(
        order_of(site, launch, 1, batch),
        script=probe_script(launch, how.image),
        nodes=1,
        head=False,
        walltime_s=min(site.slots[slot].walltime_s, WALLTIME_S),
        wait_s=int(how.wait_s),
    )
    try:
        outcome = batch.submit(order, tag)
        if isinstance(outcome, Rejected):
            yield _bad(
                f"{site.backend.kind} refused the probe job: {outcome.reason}",
                f"slots.{slot} and backend.options",
            )
            return
        yield from _Job(batch, tag, place / "0", how.wait_s).findings()
    finally:
        _cancel(batch, tag)
        shutil.rmtree(place, ignore_errors=True)


class _Job:
    """A probe job, from its submission to its answers."""

    def __init__(
        self,
        batch: Batch,
        tag: Tag,
        place: Path,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._batch, self._tag, self._place, self._wait_s = batch, tag, place, wait_s
        self._clock, self._sleep = clock, sleep
        self._last = "no listing has shown it"
        self._runs = False

    def findings(self) -> Iterator[Finding]:
        """Its answers, once all are there; or what has become of it."""
        began = seen_at = heard_at = self._clock()
        told = 0
        over_at: float | None = None
        pause_s = min(self._batch.poll_s, 15.0)
        while True:
            found = _read(self._place / "stdout")
            if _complete(found):
                yield from found
                return
            now = self._clock()
            if len(found) > told or not self._runs:
                told, heard_at = len(found), now
            if now - heard_at > QUIET_S:
                yield from found
                yield _hangs("the probe job")
                return
            if over_at is not None and now - over_at > ARRIVE_S:
                break
            if now - began > self._wait_s:
                said = f"the probe job did not end within {self._wait_s:.0f} s: {self._last}"
                yield from found
                yield _bad(said, "a longer `--wait`, or another slot; it is cancelled")
                return
            if over_at is None:
                if (one := self._look()) is not None:
                    seen_at = now
                if (one is not None and one.phase is Phase.ENDED) or now - seen_at > NOT_LISTED_S:
                    over_at = now
                    continue
            self._sleep(1.0 if over_at is not None else pause_s)
        yield from found
        said = f"the probe job ended without an answer: {self._last}"
        yield _bad(_with_last_words(said, self._place / "stderr"), "do nodes see paths.shared?")

    def _look(self) -> Sighting | None:
        """The job as the batch system lists it; one that cannot be asked says nothing."""
        try:
            one = next((one for one in self._batch.listing() if one.tag == self._tag), None)
        except BatchError as error:
            self._last = str(error)
            return None
        if one is not None:
            self._runs = one.phase is Phase.STARTING
            words = one.ending or one.phase or "in a state that is not known"
            self._last = f"it is {words}" + (f" ({one.detail})" if one.detail else "")
        return one


def _cancel(batch: Batch, tag: Tag) -> None:
    """Leave nothing in the queue, whatever became of the submission."""
    with suppress(BatchError):
        alive: list[BatchId] = [
            one.batch_id
            for one in batch.listing()
            if one.tag == tag and one.phase is not Phase.ENDED
        ]
        if alive:
            batch.cancel(alive)


def _forget_old(root: Path) -> None:
    """Remove directories of probes that were killed."""
    for old in root.iterdir():
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > OLD_S:
                shutil.rmtree(old, ignore_errors=True)


# -- answers ---------------------------------------------------------------------------------------


def _read(stdout: Path) -> list[Finding]:
    """The answers so far. A batch system's own words among them are none."""
    found = []
    try:
        with stdout.open("rb") as file:
            whole = file.read(_STDOUT_BYTES).rpartition(b"\n")[0]
    except OSError:
        return []
    for line in whole.splitlines():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found.append(_findings.decode(line))
    return found


def _complete(found: Sequence[Finding]) -> bool:
    return any(one.about == PROBE for one in found)


def _with_last_words(said: str, stderr: Path) -> str:
    with suppress(OSError):
        lines = stderr.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
        if last := next((line for line in reversed(lines) if line.strip()), ""):
            return f"{said}: {last.strip()[:300]}"
    return said
