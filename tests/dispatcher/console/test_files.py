"""What the console is made of, and how it is served."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.states import JobState
from dispatcher.console.app import STATIC, console

HERE = Path(__file__).parent
MODULES = sorted((STATIC / "js").glob("*.js"))


def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(console()(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_vendored_modules_are_what_was_fetched_and_carry_their_licence():
    listed = json.loads((STATIC / "vendor/vendor.json").read_text())
    for module in listed:
        text = (STATIC / "vendor" / module["file"]).read_bytes()
        assert hashlib.sha256(text).hexdigest() == module["sha256"], module["name"]
        assert module["version"] in module["file"]
        assert len((STATIC / "vendor" / module["licence"]).read_text()) > 900
    named = {name for module in listed for name in (module["file"], module["licence"])}
    assert {path.name for path in (STATIC / "vendor").iterdir()} == named | {"vendor.json"}


def test_the_whole_console_is_small():
    files = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".css")]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in files) <= 90 * 1024


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_import_leads_somewhere(path: Path):
    listed = json.loads((STATIC / "vendor/vendor.json").read_text())
    known = {module["name"] for module in listed}
    for name in re.findall(
        r'^import .*? from "([^"]+)";', path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert name in known if not name.startswith(".") else (path.parent / name).is_file(), name


def test_each_page_of_the_table_is_drawn_by_a_view():
    query, main = ((STATIC / "js" / name).read_text() for name in ("query.js", "main.js"))
    (table,) = re.findall(r"const PAGES = \{\n(.*?)\n\};", query, re.DOTALL)
    (views,) = re.findall(r"const VIEWS = \{(.*)\};", main)
    pages = re.findall(r"^  (\w+): \{ title: .*, key: ", table, re.MULTILINE)
    assert {*pages, "job", "submission", "task", "worker"} == set(re.findall(r"(\w+):", views))


def test_each_state_of_a_job_is_in_a_group():
    text = (STATIC / "js" / "format.js").read_text()
    (table,) = re.findall(r"const GROUP = \{(.*?)\};", text, re.DOTALL)
    assert set(re.findall(r"(\w+):", table)) == set(JobState)


def test_nothing_comes_from_elsewhere():
    ours = [*MODULES, *STATIC.glob("*.css"), STATIC / "index.html"]
    address = re.compile(r'(https?:)?//[a-z0-9.-]+\.[a-z]{2,}|@import|url\((?!"\./[a-z.]+"\))')
    assert [path.name for path in ours if address.search(path.read_text())] == []


def test_no_page_is_made_from_text_nor_styled_by_it():
    sinks = re.compile(
        r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        r"|setAttribute\([\"']style|style=\"|javascript:"
    )
    assert [path.name for path in MODULES if sinks.search(path.read_text())] == []


def test_the_page_allows_its_one_inline_script_and_no_other():
    status, headers, body = get("/console/")
    policy = headers[b"content-security-policy"].decode()
    (inline,) = re.findall(r"<script type=\"importmap\">(.*?)</script>", body.decode(), re.DOTALL)
    digest = b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert status == 200
    assert f"script-src 'self' 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    for rule in (
        "object-src 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "style-src 'self'",
    ):
        assert rule in policy
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"no-referrer"


def test_a_file_that_has_not_changed_is_not_sent_again():
    _, headers, plain = get("/console/js/main.js")
    status, _, body = get("/console/js/main.js", if_none_match=headers[b"etag"].decode())
    assert (status, body) == (304, b"")
    _, headers, zipped = get("/console/js/main.js", accept_encoding="br, gzip")
    assert headers[b"content-encoding"] == b"gzip"
    assert gzip.decompress(zipped) == plain


@pytest.mark.parametrize(
    "path",
    [
        "/console/../app.py",
        "/console/js/../../app.py",
        "/console//etc/passwd",
        "/console/nothing",
        "/consolejs/main.js",
    ],
)
def test_only_the_consoles_files_are_served(path: str):
    assert get(path)[0] == 404


def test_the_root_leads_to_the_console_and_nothing_is_written():
    assert get("/")[:2] == (307, {b"location": b"console/", b"content-length": b"0"})
    assert get("/console/", method="POST")[0] == 405


def test_the_pure_modules_keep_their_promises(need: Callable[..., str]):
    run = subprocess.run(
        [need("node", package="nodejs"), "--test", str(HERE)],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stdout
