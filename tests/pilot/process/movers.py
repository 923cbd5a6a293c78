"""A mover of the tests' own, which fails as its URLs say, and the program that runs it.

`copy:PATH` is copied; other words before the colon are what goes wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

import plugins
from ailurus.protocol.errors import Code
from ailurus.token_discovery import of_site
from pilot.ports import Found, JobError, Moved, Mover, NotMoved, Progress, Tell, ToGet, ToPut
from pilot.process import mover
from pilot.process.frames import SOCKET


def _parts(url: str) -> tuple[str, str, str]:
    """Of `copy:/path` or `x://host/copy:/path`."""
    return url.removeprefix("x://h/").partition(":")


def _path(url: str) -> str:
    return _parts(url)[2]


class Trouble(Mover):
    """Copies between URLs `WORD:PATH` and files of this node."""

    class Options(Struct, frozen=True):
        marks: str = ""
        """A directory in which calls are noted."""
        setup: str = ""
        close: str = ""
        urls: bool = False
        token_file: str = ""
        proxy: str = ""

    def __init__(self, options: Options) -> None:
        self.options = options
        if options.setup == "import":
            import no_such_library  # noqa: F401
        if options.setup == "refuse":
            raise JobError(Code.SERVICE_UNAVAILABLE, "no token", remedy="renew it")
        if options.setup == "die":
            self._die()

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        self._shown()
        for file in files:
            word, _, path = _parts(file.url)
            self._note(f"get {file.key}")
            self._one(word, file, path, file.path, tell)

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        self._shown()
        for file in files:
            word, _, path = _parts(file.url)
            self._note(f"put {file.key}")
            self._one(word, file, file.path, path, tell)

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        if "die" in [_parts(url)[0] for url in urls]:
            self._die()
        left = {}
        for url in urls:
            path = Path(_path(url))
            if path.is_dir():
                left[url] = "it is a directory"
            else:
                path.unlink(missing_ok=True)
        return left

    def expand(self, url: str) -> Sequence[Found]:
        top = Path(_path(url))
        if url.startswith("odd:"):
            return [Found(name="\udcff", url=url)]
        return [
            Found(
                name=path.name,
                url=f"x://h/copy:{path}" if self.options.urls else f"copy:{path}",
                size=1 << 70 if path.name == "vast" else path.stat().st_size,
            )
            for path in sorted(top.iterdir())
        ]

    def close(self) -> None:
        self._note("closes")
        if self.options.close == "hang":
            threading.Event().wait()
        self._note("closed")

    def _shown(self) -> None:
        token = of_site(self.options.token_file)
        if token.text:
            self._note(f"shows {token.text}")
        for name in (token.path, self.options.proxy):
            if name:
                self._note(f"shows {Path(name).read_text(encoding='ascii')}")
        for name in os.environ:
            if "BEARER" in name:
                self._note(f"has {name}")

    def _note(self, text: str) -> None:
        if self.options.marks:
            with Path(f"{self.options.marks}/calls").open("a", encoding="utf-8") as notes:
                notes.write(text + "\n")

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _flood(word: str, key: int, tell: Tell) -> None:
        for moved in range(200_000 if word == "flood" else 20):
            tell(Progress(key=key, moved_bytes=moved))
            if word == "shout":
                os.write(2, b"x" * (1 << 20))
                time.sleep(mover.PROGRESS_S)

    def _one(self, word: str, file: ToGet | ToPut, source: str, target: str, tell: Tell) -> None:
        if word not in {"silent", "stop"}:
            tell(Progress(key=file.key, moved_bytes=0))
        if word == "hang":
            subprocess.Popen(["sleep", "87654"], start_new_session=True)
            threading.Event().wait()
        if word == "die":
            self._die()
        if word == "once" and not Path(f"{self.options.marks}/died").exists():
            Path(f"{self.options.marks}/died").touch()
            self._die()
        if word == "raise":
            raise RuntimeError("no such thing")
        if word == "busy":
            tell(NotMoved(key=file.key, code=Code.STAGE_IN_FAILED, message="busy", transient=True))
            return
        if word in {"flood", "shout"}:
            self._flood(word, file.key, tell)
        if word == "nonsense":
            os.write(SOCKET, b"\xff" * 100)
            threading.Event().wait()
        if word == "deep":
            body = b"\x91" + b"\x81\xa1k" * 100_000
            os.write(SOCKET, len(body).to_bytes(4, "big") + body)
            threading.Event().wait()
        if word == "stop":
            tell(Progress(key=file.key, moved_bytes=1 << 40))
            threading.Event().wait()
        if word in {"part", "locked"}:
            # What is locked, `delete` does not remove.
            Path(target).mkdir() if word == "locked" else Path(target).write_bytes(b"part")
            tell(Progress(key=file.key, moved_bytes=1))
            threading.Event().wait()
        if word in {"cut", "kept"} and not Path(f"{self.options.marks}/cut").exists():
            Path(f"{self.options.marks}/cut").touch()
            Path(target).mkdir() if word == "kept" else Path(target).write_bytes(b"part")
            code, passes = Code.STAGE_OUT_FAILED, word == "cut"
            tell(NotMoved(key=file.key, code=code, message="cut", transient=passes, left=True))
            return
        if word == "cut" and Path(target).exists():
            tell(NotMoved(key=file.key, code=Code.STAGE_OUT_FAILED, message="exists"))
            return
        if word == "odd":
            message = f"{os.fsdecode(bytes([255]))} is away"
            tell(NotMoved(key=file.key, code=Code.STAGE_IN_FAILED, message=message))
            return
        if word == "forget":
            return
        data = Path(source).read_bytes()
        if word == "link":
            Path(target).symlink_to(source)
        else:
            Path(target).write_bytes(data)
        size = len(data) + (word == "lie")
        tell(Moved(key=file.key, size=size, adler32=f"{zlib.adler32(data):08x}"))
        if word == "twice":
            tell(NotMoved(key=file.key, code=Code.STAGE_IN_FAILED, message="after all not"))


if __name__ == "__main__":
    plugins.TABLE["mover"] = {"trouble": f"{__name__}:Trouble"}
    mover.main()
