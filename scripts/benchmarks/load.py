"""Load by wrk: a Lua script that sends lines of a file, in order, with the worker each belongs
to."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tests.rig.programs import run

_LUA = """
local tokens, beats, acquires, paths = {}, {}, {}, %(paths)s
for line in io.lines("%(tokens)s") do tokens[#tokens + 1] = line end
for line in io.lines("%(beats)s") do beats[#beats + 1] = line end
for line in io.lines("%(acquires)s") do acquires[#acquires + 1] = line end
local turn, beat, acquire, wrapped = 0, 0, 0, 0
local close = %(close)s
local function ask(path, line)
    local tab = line:find("\\t", 1, true)
    local headers = {["Content-Type"] = "application/json"}
    local token = tokens[tonumber(line:sub(1, tab - 1))]
    if token then headers["Authorization"] = "Bearer " .. token end
    if close then headers["Connection"] = "close" end
    return wrk.format("POST", path, headers, line:sub(tab + 1))
end
function request()
    turn = turn + 1
    if turn %% 10 == 0 then
        acquire = acquire %% #acquires + 1
        return ask(paths.acquire, acquires[acquire])
    end
    beat = beat %% #beats + 1
    return ask(paths.beat, beats[beat])
end
"""


class Load(Struct, frozen=True, kw_only=True):
    """What one round of wrk saw."""

    rate: float  # requests a second
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int


class Lines(Struct, frozen=True, kw_only=True):
    """What is sent: `INDEX<tab>BODY`, the index being that of the token (0: none)."""

    tokens: Sequence[str]
    beats: Sequence[str]
    acquires: Sequence[str]
    beat_path: str
    acquire_path: str


def available() -> bool:
    """Whether wrk is here."""
    return shutil.which("wrk") is not None


def wrk(
    url: str, lines: Lines, place: Path, *, seconds: int, connections: int, close: bool
) -> Load:
    """One round, on one thread of its own."""
    files = {"tokens": lines.tokens, "beats": lines.beats, "acquires": lines.acquires}
    for name, content in files.items():
        (place / f"{name}.txt").write_text("".join(f"{line}\n" for line in content))
    script = place / "load.lua"
    paths = json.dumps({"beat": lines.beat_path, "acquire": lines.acquire_path})
    script.write_text(
        _LUA
        % {
            **{name: place / f"{name}.txt" for name in files},
            "paths": re.sub(r'"(\w+)":', r"\1 =", paths),
            "close": str(close).lower(),
        }
    )
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url]
    return read(run(*map(str, argv), seconds=seconds + 30))


def read(text: str) -> Load:
    """What wrk printed."""
    counted = re.search(r"(\d+) requests in", text)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if counted is None or rate is None:
        raise RuntimeError(f"wrk said: {text[-500:]}")
    wrong = int(failed[1]) if failed else 0
    wrong += sum(map(int, broken.groups())) if broken else 0
    return Load(
        rate=float(rate[1]),
        p50_ms=_ms(text, "50%"),
        p99_ms=_ms(text, "99%"),
        requests=int(counted[1]),
        failed=wrong,
    )


def _ms(text: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]] if found else 0.0
