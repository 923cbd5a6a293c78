"""The whole way: a real pilot runs a real payload, and its words come to an open page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from tests.dispatcher.console.conftest import Dispatcher, Seen

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Ends when the page has been seen to show the middle: so the log was live, not read afterwards.
PAYLOAD = r"""
printf '\033[32mbegin\033[0m\n'; sleep 1; echo middle; echo careful >&2
while [ ! -e {go} ]; do sleep 0.1; done; echo end
"""


@pytest.fixture
def pilot(dispatcher: Dispatcher, tmp_path: Path) -> Iterator[None]:
    token = tmp_path / "pilot.token"
    token.write_text(dispatcher.token("pilot", Scope.PILOT))
    site = tmp_path / "site.yaml"
    slots = {"s": {"queue": "real", "cores": 2, "memory": "1GiB", "disk": "1GiB"}}
    container = {"default": "bare", "bare": True}
    site.write_text(json.dumps({"site": "here", "slots": slots, "container": container}))
    argv = [Path(sys.executable).with_name("pilot"), "--url", dispatcher.url, "-q", "real"]
    argv += ["--site", site, "-a", tmp_path / "work", "--token-file", token, "--grace", "1"]
    (tmp_path / "work").mkdir()
    with (tmp_path / "pilot.log").open("w") as log:
        environment = {"PATH": os.environ["PATH"]}
        process = subprocess.Popen([str(word) for word in argv], env=environment, stderr=log)
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(15)


def test_a_real_payloads_words_come_live(
    page: Page, pilot: None, dispatcher: Dispatcher, tmp_path: Path, seen: Seen
):
    go = tmp_path / "go"
    (job_id,) = dispatcher.submit(
        JobSpec(
            name="talks", command=PAYLOAD.format(go=go), queue="real", memory_mb=200, disk_mb=50
        )
    )
    page.goto(f"{dispatcher.url}/console/")
    page.click("nav a[data-nav=jobs]")
    page.click(f".rowlink[href='#/jobs/{job_id}']")
    expect(page.locator(".line", has_text="middle")).to_be_visible(timeout=20_000)
    expect(page.locator(".line .fg2")).to_have_text("begin")
    expect(page.locator(".heading .state")).to_have_text("running")
    expect(page.locator(".curves figure")).to_have_count(3, timeout=10_000)
    go.touch()
    expect(page.locator(".line", has_text="end")).to_be_visible()
    expect(page.locator(".heading .state")).to_have_text("finished")
    page.click(".tabs button:has-text('stderr')")
    expect(page.locator(".line", has_text="careful")).to_be_visible()
    expect(page.locator(".legend")).to_contain_text("ran")
    with page.expect_download() as loading:
        page.click("text=Download")
    assert loading.value.path().read_text() == "careful\n"
    assert seen.faults == []
