"""Tasks in the page: a bar a step, the graph, items down to their logs, verbs after a question."""

from __future__ import annotations

import uuid

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.task_file import task_from
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = "<img src=x onerror=alert(1)>"


def submitted(dispatcher: Dispatcher, queue: str) -> int:
    def step(name: str, over: object, command: str, **fields: object) -> dict[str, object]:
        job = {"command": command, "queue": queue, "outputs": ["out"]}
        return {"name": name, "over": over, "job": job, **fields}

    steps = [
        step("simulate", {"list": ["a", "bad", HOSTILE]}, "simulate {item}"),
        step("digitise", {"outputs": "simulate"}, "digitise {item}"),
        step("plots", {"list": ["x"]}, "plot {item}", gate={"after": "digitise"}),
    ]
    task = task_from({"task": f"chain-{queue}", "steps": steps})
    return dispatcher.client.submit_task(task, uuid.uuid4().hex).task_id


def worked(dispatcher: Dispatcher, queue: str) -> None:
    """Run the jobs that are there: the second one fails."""
    pilot = StandIn(dispatcher.url, dispatcher.token("p", Scope.PILOT), queue, "host")
    while len(pilot.jobs) < 3:
        pilot.acquire()
    for nr, job_id in enumerate(sorted(pilot.jobs)):
        pilot.say(job_id, f"of {job_id}\n")
        if nr == 1:
            pilot.report(job_id, finished=False, code=1305)
        else:
            file = m.DoneFile(name="out", url=f"file:///{job_id}", size=1, adler32="0" * 8)
            pilot.report(job_id, files=(file,))


def test_a_task_is_a_line_that_leads_down_to_the_log_of_an_item(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    number = submitted(dispatcher, "down")
    worked(dispatcher, "down")
    page.goto(f"{dispatcher.url}/console/#/tasks")
    row = page.locator("tbody tr", has_text="chain-down")
    expect(row.locator(".bar")).to_have_count(3)
    expect(row.locator(".bar").first).to_have_attribute(
        "aria-label", "Step simulate: 2 finished, 1 failed"
    )
    row.locator("th a").click()
    expect(page.locator("h1")).to_have_text("chain-down")
    expect(page.get_by_text("3 items have ended")).to_be_visible()
    items = page.get_by_role("region", name="Table of items").locator("tbody tr")
    expect(items).to_have_count(3)
    expect(items.last).to_contain_text(HOSTILE)
    page.locator(".filters .chip", has_text="failed").click()
    expect(items).to_have_count(1)
    expect(items).to_contain_text("bad")
    page.get_by_role("link", name="as a graph").click()
    expect(page.locator(".graph > a")).to_have_count(3)
    expect(page.locator(".graph path")).to_have_count(2)
    expect(page.locator(".graph path.gate")).to_have_count(1)
    page.locator(".graph > a", has_text="digitise").click()
    expect(page.locator("section[aria-label='Step digitise'] h2")).to_be_visible()
    page.locator(".graph > a", has_text="simulate").click()
    with page.expect_download() as log:
        items.first.get_by_role("link", name="download").click()
    assert log.value.path().read_text().startswith("of ")
    items.first.get_by_role("link", name="read").click()
    expect(page.locator(".line").first).to_contain_text("of ")
    page.locator(".subject a", has_text=str(number)).last.click()
    expect(page.locator("h1")).to_have_text("chain-down")
    assert seen.faults == []


def test_a_task_is_steered_after_a_question(page: Page, dispatcher: Dispatcher, seen: Seen):
    number = submitted(dispatcher, "steered")
    page.goto(f"{dispatcher.url}/console/#/tasks/{number}")
    state, box = page.locator(".heading .state"), page.locator("dialog")
    buttons = page.locator(".heading > .actions > button")
    expect(buttons).to_have_text(["Pause…", "Finish early…", "Cancel…"])
    for verb, after in (("Pause", "paused"), ("Resume", "running"), ("Cancel", "cancelled")):
        buttons.filter(has_text=f"{verb}…").click()
        box.get_by_role("button", name="Leave it").click()
        expect(box).to_have_count(0)
        buttons.filter(has_text=f"{verb}…").click()
        box.get_by_role("button", name=verb, exact=True).click()
        expect(state).to_have_text(after)
    expect(page.locator(".trouble")).to_have_text("cancelled by admin")
    buttons.filter(has_text="Retry what failed…").click()
    box.get_by_role("button", name="Retry what failed").click()
    expect(state).to_have_text("running")
    assert seen.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 760, 390])
def test_their_pages_are_accessible_and_fit(page: Page, dispatcher: Dispatcher, scheme, width):
    number = submitted(dispatcher, f"fits-{scheme}-{width}")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    for where in ("tasks", f"tasks/{number}", f"tasks/{number}?view=graph&items=open"):
        page.goto(f"{dispatcher.url}/console/#/{where}")
        expect(page.locator("main .bar").first).to_be_visible()
        found = Axe().run(page).response["violations"]
        told = [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found]
        assert told == [], where
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where
        last = page.locator(".top nav a").last.bounding_box()
        assert last["x"] + last["width"] <= width
