"""The pilot's ports: what it needs of its surroundings. A port exists when something needs it.

AilurusError
└── JobError      this job fails, with PanDA's code; the pilot lives on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.fields import Amount, Seconds
from ailurus.protocol.job import JobSpec
from ailurus.protocol.url import Url

if TYPE_CHECKING:
    from pilot.room_ports import Entrance

ABSENT = "is its URL right, and was it kept for long enough?"
"""What helps where a file is not there."""
TAKEN = (
    "another dispatcher, or one of before, had a job of this number: remove it, or name another "
    "directory"
)
"""What helps where an output's name is taken: it carries job and attempt."""
Check = Callable[[], None]
"""Called now and then by whatever takes long: raises JobError when the job is to stop."""


class JobError(AilurusError):
    """Why an attempt failed. `transient` None: as the code says."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        remedy: str = "",
        field: str = "",
        transient: bool | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.code = code
        self.transient = code.transient if transient is None else transient


class LeftBehind(JobError):
    """Why an upload failed of which something may be there, which could not be removed."""

    def __init__(self, why: JobError) -> None:
        super().__init__(why.code, why.message, remedy=why.remedy, transient=why.transient)


class Copied(Struct, frozen=True, kw_only=True):
    """A file as it was seen while it was copied, in one pass."""

    size: int
    adler32: str
    md5: str | None = None


class Transfer(Protocol):
    """Moves single files of some URL schemes. Follows no link and overwrites nothing.

    A URL comes parsed. In a text it is written as `str(url)`, which shows no secrets.
    """

    def allowed(self, url: Url) -> None:
        """Raise JobError(STORAGE_FORBIDDEN) if the site does not let jobs use `url`."""

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        """Copy `url` into the open, empty file `into`, which becomes a program if `url` says it is
        one."""

    def put(self, source: int, url: Url, check: Check) -> Copied:
        """Copy the open file `source` to `url`, which must not exist; whole or not at all."""

    def delete(self, url: Url) -> None:
        """Remove `url`; that it does not exist is no error."""


class Found(Struct, frozen=True, kw_only=True):
    """One file of what a URL names: of a data set, or of a directory."""

    name: str
    """Relative to what was asked for; it may have sub-directories, never `..`."""
    url: str
    size: int | None = None
    adler32: str | None = None


MOST_FOUND = 10_000
"""Files that a URL may name; a plugin that lists more raises `too_many`."""


def too_many(url: object) -> JobError:
    """The error of a data set or directory with more files than a job can have."""
    return JobError(
        Code.INPUTS_TOO_LARGE,
        f"{url} has more than {MOST_FOUND} files, which is what a job can have",
        remedy="make several jobs of it, or archives of its files",
    )


@runtime_checkable
class Lister(Protocol):
    """A `Transfer` that lists directories, too."""

    def listed(self, url: Url, check: Check) -> Sequence[Found]:
        """The regular files of the directory that `url` names by a slash at its end, at any depth,
        or those right in it that match the `*` in its last name. Raises JobError."""


@runtime_checkable
class TakesUsers(Protocol):
    """A `Transfer` that can move files as a job's user."""

    def as_user(self, token: str, proxy: str) -> Transfer:
        """The same with that token and that X.509 proxy (PEM; blank: none) in place of the
        site's. It has connections of its own, so it is kept for the files of a job."""


class ToGet(Struct, frozen=True, kw_only=True):
    """A file that a mover brings to this node."""

    key: int
    url: str
    path: str
    """Where it goes: nothing is there yet, and no payload reaches it."""
    size: int | None = None
    """Bytes that are declared or that the catalogue says; None: nobody knows."""
    adler32: str | None = None
    md5: str | None = None
    """Declared, so the mover measures it, too."""


class ToPut(Struct, frozen=True, kw_only=True):
    """A file that a mover takes from this node to storage, where nothing of its name may be."""

    key: int
    url: str
    path: str
    """A regular file that nobody writes any more: `/proc/self/fd/N`, so a program that the mover
    starts needs N in its `pass_fds`."""
    size: int
    """Bytes."""


class Moved(Struct, frozen=True, kw_only=True, tag=True):
    """A file arrived, whole; what was measured on the way."""

    key: int
    size: int
    adler32: str
    md5: str | None = None
    url: str = ""
    """Where it came from or is now, if the mover chose that (a replica of a catalogue)."""


class NotMoved(Struct, frozen=True, kw_only=True, tag=True):
    """A file did not arrive, and nothing of it is where it should have gone, unless `left`."""

    key: int
    code: Code
    message: str
    remedy: str = ""
    transient: bool = False
    left: bool = False
    """Something of an upload of ours may be there: the storage did not let us remove it."""
    died: bool = False
    """The process that moved it died of it, again and again."""


class Progress(Struct, frozen=True, kw_only=True, tag=True):
    """How many bytes of a file have been moved. The first one, be it of 0 bytes, says that the file
    has begun: its time counts from then on."""

    key: int
    moved_bytes: int


Tell = Callable[[Moved | NotMoved | Progress], None]
"""What a mover calls: once for each file with its end, before that as often as it likes with
progress. From one thread at a time."""


class Mover(Protocol):
    """Moves batches of files with a library of its own, in a child process that the pilot can
    afford to lose: it has the site's storage credentials, and nothing else of the pilot.

    Made with the plugin's own `Options`, a frozen Struct that the site file fills. Inherit from it
    for the default of `close`. Overwrites nothing. What it raises costs the whole batch; what
    concerns one file is told as NotMoved.
    """

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        """Bring the files."""

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        """Take the files to storage; directories on the way are made."""

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        """Remove files; that one does not exist is no error. Returns why, of each that is left."""

    def expand(self, url: str) -> Sequence[Found]:
        """The files that `url` names: itself, those of a data set or directory at any depth, or
        those right in a directory that match the `*` in its last name; `MOST_FOUND` at most."""

    def close(self) -> None:
        """Finish what is done beside calls, as a word to a catalogue; nothing is asked for any
        more. The process is killed where that takes longer than a few seconds."""


@runtime_checkable
class Examines(Protocol):
    """A mover that asks a service beside the storage, such as a catalogue. Others are none."""

    def examine(self) -> Sequence[str]:
        """What the service says of this site, a sentence each. Raises JobError for what would stop
        its jobs."""


class Image(Struct, frozen=True, kw_only=True):
    """A job's image as it lies on this node."""

    path: str
    """A SIF or squashfs file, or the directory of a root file system."""
    mark: str
    """Changes when what is at the path does."""
    offset: int = -1
    """Where the squashfs begins in the file, bytes; -1: it is a directory."""


PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
"""Where a payload's programs are looked for, unless its job or its image says so."""


class Sandbox(Struct, frozen=True, kw_only=True):
    """What a payload may see and use: its directory, its environment, the network or not."""

    directory: str
    tmp: str
    """What is /tmp for the payload."""
    environment: Mapping[str, str]
    memory_mb: int
    """The most that it may keep in memory as files."""
    network: bool = False
    devices: tuple[str, ...] = ()
    """Device files, beside those that every payload has."""
    image: Image | None = None
    """What the container's `prepare` returned; None: the site's own system."""
    host: str = ""
    """What its machine is called in there; empty: as in every sandbox."""
    own: str = ""
    """A directory of this attempt that its payload does not see, for files of the container's."""


class ImageCache(Struct, frozen=True, kw_only=True):
    """Images of registries on this node, shared by its pilots."""

    directory: str
    registries: tuple[str, ...] = ()
    """What references may begin with: `docker://registry.example.org/atlas/`."""
    most_bytes: int
    """What is used least goes when there is more."""
    most_s: float
    """So long after its last use an image goes."""


class ContainerSetup(Struct, frozen=True, kw_only=True):
    """What a site allows containers, and where the pilot keeps what they need."""

    directory: str
    """The pilot's own, for files that payloads may read."""
    jobs: str = ""
    """Beneath which the directories of jobs are; empty: beneath its parent."""
    user: str
    """What the pilot's user is called, who may be in no file of this node."""
    software: tuple[str, ...] = ()
    """Directories that payloads see, read-only."""
    show: tuple[str, ...] = ()
    """More paths that payloads see, read-only, where a node has them."""
    bare: bool = False
    network: bool = True
    """Whether a job may ask for the network."""
    user_namespaces: bool = False
    """Whether a payload may make user namespaces of its own."""
    images: tuple[str, ...] = ()
    """Directories beneath which the images of jobs lie."""
    apptainer: str = ""
    """The directory of Apptainer's command, if it is in no usual one."""
    cache: ImageCache | None = None
    """Where images of registries are kept; None: jobs name none."""
    spawner: Spawner | None = None
    """What starts the processes that mount images and fetch them; None: neither is done."""


class Direct(Struct, frozen=True, kw_only=True):
    """The payload is the process that the pilot starts: no container stands between."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: str


class Runtime(Struct, frozen=True, kw_only=True):
    """A container's own program, which starts the payload inside.

    It runs in our environment and in no directory of a job's, so nothing that a user wrote is there
    for a loader, a library or a shell to obey. What the payload is to have inside, the program
    reads as data.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = {}
    """Its own, which the pilot made: where it finds its helpers, say. Nothing of a job's."""
    arguments: bytes = b""
    """What it reads from the descriptor ARGUMENTS: in no list of processes, and of any length."""
    filter: bytes = b""
    """What it reads from the descriptor FILTER: a program that says which system calls a payload
    has."""
    room: int = 0
    """Where it is started, as the spawner numbers the places; 0: where the pilot is."""


ARGUMENTS, FILTER = 4, 5
"""Beside 0 to 2 and its `status_fd`, the descriptors that a runtime inherits. It closes them before
the payload starts."""


class Container(Protocol):
    """Wraps a payload's command so that it sees only its box. Made with the site's
    `ContainerSetup`. Inherit from it for the defaults of `of`, `prepare`, `blame` and `within`."""

    name: str
    private: bool
    """Whether payloads are kept from the pilot's files: without that no spool is shared."""
    depth: int
    """How many processes of its own stand between the one we start and the payload."""
    status_fd: int
    """The descriptor on which it tells how the payload ended, which no payload has; 0: it has
    none."""

    def of(self, spec: JobSpec) -> Container:
        """The runtime of such a job: this one, unless it chooses among several."""
        return self

    def ran(self, status: str) -> bool:
        """Whether the payload ran, by the text on `status_fd`; else the runtime itself
        failed."""

    def blame(self, image: Image | None, exit_code: int) -> JobError | None:
        """Why a payload did not begin, where this runtime can find out; None: the runtime
        failed."""
        return None

    def tmp(self, directory: str) -> str:
        """Where the payload finds its `tmp`."""

    def accepts(self, spec: JobSpec) -> None:
        """Raise JobError if this container cannot run such a job."""

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        """Have the image of a job on this node, ready for its payload; None: it has none. Takes
        as long as a transfer may. Raises JobError."""
        return None

    def within(self, argv: Sequence[str], box: Sandbox) -> Direct | None:
        """How `argv` is started where such a box stands already; None: each process needs one of
        its own."""
        return None

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct | Runtime:
        """The process that runs `argv` inside `box`. Raises JobError for a box that cannot be
        made."""


class ProcessSpec(Struct, frozen=True, kw_only=True):
    """A process to start: no shell, no inherited descriptor, nothing of our environment."""

    argv: Sequence[str]
    environment: Mapping[str, str] = {}
    directory: str = "/"
    stdout: str = "/dev/null"
    stderr: str = "/dev/null"
    cpus: Sequence[int] = ()
    """CPUs to run on; empty: as the pilot."""
    depth: int = 0
    """How many processes from the top a TERM spares: they are the container's."""
    status_fd: int = 0
    """The descriptor whose writer the program gets, and whose text comes back in `ProcessEnd`; 0:
    none. The process that it names there as `"child-pid": N` is the payload's: its usage counts as
    the program's."""
    arguments: bytes = b""
    """What it reads from the descriptor ARGUMENTS; empty: it gets none."""
    filter: bytes = b""
    """What it reads from the descriptor FILTER, likewise."""
    cgroup: Sequence[int] = ()
    """What it is started in: `pilot.process.cgroup.Group.entrance`; empty: the guardian's own."""
    socket: int = -1
    """A socket of the pilot, of which the program gets a copy as descriptor 3; -1: none. Beside 0
    to 2 it inherits nothing else."""
    room: int = 0
    """Where it is started: a key that the spawner gave; 0: where the pilot is."""
    tell: bool = False
    """Whether somebody waits for its process id; else the news of its start may wait a little."""


class ProcessEnd(Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """How a process ended. `errno` not 0: it could not be started."""

    key: int
    exit_code: Annotated[int, Meta(ge=-255, le=255)] = 0
    """As `os.waitstatus_to_exitcode`: negative is a signal."""
    errno: int = 0
    cpu_s: Seconds = 0.0
    max_rss_kb: Amount = 0
    at: float = 0.0
    """time.monotonic() when it was found to have ended."""
    before: bool = False
    """The errno is of what comes before the program: its directory, its output files, its CPUs."""
    status: str = ""
    """What it wrote to its `status_fd`."""


class Spawner(Protocol):
    """Starts processes and tells how they end; what they leave behind is killed."""

    def spawn(self, order: ProcessSpec, done: Callable[[ProcessEnd], None]) -> int:
        """Start it and return its key. `done` is called once, from the spawner's own thread."""

    def spawn_all(
        self, orders: Sequence[tuple[ProcessSpec, Callable[[ProcessEnd], None]]]
    ) -> list[int]:
        """Start many, all in the same room."""

    def signal(self, key: int, number: int) -> None:
        """Send a signal to the payload's processes; KILL ends all of them."""

    def pid(self, key: int) -> int | None:
        """Its process id while it runs."""

    def enter(self, entrance: Entrance, done: Callable[[ProcessEnd], None]) -> int:
        """Make a room, and return its key, by which orders name it, when it is ready. `done` is
        called once it has ended. Raises OSError if it cannot be made."""
