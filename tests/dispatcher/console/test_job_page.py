"""The page of a job in headless Chromium: its files, and its log with links to lines."""

from __future__ import annotations

import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SCRIPT = b"<script>document.title = 'taken over'</script>"
FILES = (
    m.DoneFile(name="plot.png", url="https://store.example/1.1.plot.png", size=3, adler32="0" * 8),
    m.DoneFile(name="odd", url="https://store.example/odd?authz=secret", size=3, adler32="0" * 8),
    m.DoneFile(name="far", url="root://store.example//far", size=3, adler32="0" * 8),
)


@pytest.fixture
def ended(dispatcher: Dispatcher) -> int:
    """A job that has ended, with 3,000 lines of output."""
    url = dispatcher.client.upload_file(SCRIPT)
    inputs = (InputFile(name="x.html", url=url, size=len(SCRIPT)),)
    outputs = tuple(OutputFile(name=file.name) for file in FILES)
    spec = JobSpec(name="ended", command="x", queue="page", inputs=inputs, outputs=outputs)
    (job_id,) = dispatcher.submit(spec)
    token = dispatcher.token("pilot", Scope.PILOT)
    pilot = StandIn(dispatcher.url, token, "page", "node-9.example")
    ask = m.Acquire(
        request_id="page", room=pilot.room(), items=True, item_files=True, uploads=True, wait_s=5
    )
    (got,) = pilot.client.call("acquire", ask, answer=m.Acquired, wait_s=5).jobs
    pilot.jobs[job_id] = (got, time.time(), {"stdout": 0, "stderr": 0})
    pilot.say(job_id, "".join(f"line {nr}\n" for nr in range(1, 3001)))
    pilot.say(job_id, "a complaint\n", "stderr")
    pilot.report(job_id, files=FILES)
    return job_id


def test_files_are_downloaded_and_those_in_storage_are_named(
    page: Page, dispatcher: Dispatcher, ended: int, seen: Seen
):
    page.goto(f"{dispatcher.url}/console/#/jobs/{ended}")
    files = page.locator(".files li")
    with page.expect_download() as got:
        files.filter(has_text="x.html").locator("a").click()
    assert got.value.suggested_filename == "x.html"
    assert got.value.path().read_bytes() == SCRIPT
    link = files.filter(has_text="plot.png").locator("a")
    assert link.get_attribute("rel") == "noopener noreferrer"
    # what has a secret, or no browser opens, is no link
    expect(files.filter(has_text="odd").locator("a")).to_have_count(0)
    expect(files.filter(has_text="root://").locator("a")).to_have_count(0)
    expect(page.locator(".command code", has_text=f"dispatcher get {ended}")).to_be_visible()
    with page.expect_download() as log:
        page.click(".log a.button")
    assert log.value.suggested_filename == f"{ended}.1.stdout.txt"
    assert log.value.path().read_text().endswith("line 3000\n")
    # opened in a tab, it is saved all the same
    with page.expect_download():
        page.evaluate(f"location = '../api/ailurus/v1/jobs/{ended}/file?name=x.html'")
    assert page.title() != "taken over"
    assert seen.faults == []


def test_a_link_leads_to_lines_of_a_log(page: Page, dispatcher: Dispatcher, ended: int, seen: Seen):
    address = f"{dispatcher.url}/console/#/jobs/{ended}"
    page.goto(f"{address}?attempt=1&lines=stdout.L1200-1202")
    chosen = page.locator(".line.chosen")
    expect(chosen.locator("code")).to_have_text(["line 1200", "line 1201", "line 1202"])
    expect(chosen.first).to_be_in_viewport()
    page.locator(".line .nr", has_text="1204").click(modifiers=["Shift"])
    expect(page).to_have_url(f"{address}?attempt=1&lines=stdout.L1200-1204")
    expect(chosen).to_have_count(5)
    page.locator(".line .nr", has_text="1203").click()
    expect(chosen).to_have_text(["1203line 1203"])
    page.click(".log a:has-text('Forget it')")
    expect(chosen).to_have_count(0)
    assert seen.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_streams_stand_side_by_side_and_are_searched_together(
    page: Page, dispatcher: Dispatcher, ended: int, seen: Seen, scheme: str
):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{dispatcher.url}/console/#/jobs/{ended}")
    page.click(".tabs button:has-text('both')")
    expect(page.locator(".term[aria-label=stderr]")).to_contain_text("a complaint")
    left, right = (page.locator(f".term[aria-label={name}]") for name in ("stdout", "stderr"))
    assert right.bounding_box()["x"] > left.bounding_box()["x"]
    page.fill("[aria-label='Search the log']", "compl")
    page.keyboard.press("Enter")
    expect(page.locator(".log .find .note")).to_have_text("1 of 1")
    expect(right.locator(".line.here")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    assert right.bounding_box()["y"] > left.bounding_box()["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert Axe().run(page).response["violations"] == []
    assert seen.faults == []
