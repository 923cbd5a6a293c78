"""The lanes of a worker in headless Chromium, over a real dispatcher."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import JobState
from tests.dispatcher.cli.test_items import acquired, end, exchange
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NODES = ("cn01", "cn02", "cn03")


def allocation(now: float) -> m.Occupancy:
    lost = m.NodeSize(name=NODES[2], cores=8, gpus=2, joined=now - 100, left=now - 30)
    return m.Occupancy(
        nodes=(
            *(m.NodeSize(name=name, cores=8, gpus=2, joined=now - 100) for name in NODES[:2]),
            lost,
        ),
        since=now - 100,
        until=now,
        busy_core_s=1400.0,
        idle_core_s={"nothing": 500.0, "wide": 260.0, "lost": 240.0},
    )


def run_jobs(pilot: StandIn, jobs: list[m.Assignment], now: float) -> None:
    """All but the last have run one after the other on the first node; that runs on two."""
    for at, job in enumerate(jobs[:-1]):
        slot = m.HeldSlot(node=NODES[at % 3], cores=1 + at % 4, gpus=(f"GPU-{at % 2}",))
        held = m.Held(slots=(slot,), began=now - 90 + 4 * at, ended=now - 80 + 5 * at)
        report = m.Report(
            job_id=job.job_id,
            attempt_nr=job.attempt_nr,
            report_key=job.report_key,
            finished=at != 2,
            code=0 if at != 2 else 1305,
            held=held,
        )
        pilot.client.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts)
    last = jobs[-1]
    slots = tuple(m.HeldSlot(node=node, cores=4) for node in NODES[:2])
    update = m.Update(
        job_id=last.job_id,
        attempt_nr=last.attempt_nr,
        state=JobState.RUNNING,
        since=now - 40,
        held=m.Held(slots=slots, began=now - 40),
    )
    beat = m.Beat(jobs=(update,), room=pilot.room(), occupancy=allocation(now))
    pilot.client.call("beat", beat, answer=m.BeatAnswer)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_reader_comes_from_an_allocation_to_the_job_that_ran_there(
    page: Page, dispatcher: Dispatcher, seen: Seen, scheme: str, width: int
):
    queue = f"lanes-{scheme}"
    ids = dispatcher.submit(*(JobSpec(name=f"j{n}", command="x", queue=queue) for n in range(8)))
    pilot = StandIn(dispatcher.url, dispatcher.token("pilot", Scope.PILOT), queue, "cn01", 24)
    run_jobs(pilot, pilot.acquire(8), time.time())
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{dispatcher.url}/console/#/pilots")
    page.locator("article.pilot", has_text=queue).locator("h2 a").click()
    expect(page.locator("h1")).to_have_text("cn01")
    expect(page.locator(".legend")).to_contain_text("kept for a job that did not fit yet")
    nodes = page.locator(".gantt .node")
    expect(nodes).to_have_count(3)
    expect(nodes.nth(2)).to_contain_text("lost")
    expect(nodes.locator(".gone")).to_have_count(1)
    expect(nodes.nth(0).locator(".field:not(.gpus) a")).to_have_count(4)
    expect(nodes.nth(0).locator(".field.gpus a")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    faults = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in faults] == []
    _keep(page, f"worker-{scheme}")
    page.get_by_role("button", name="Closer").click()
    page.get_by_role("button", name="Earlier").click()
    page.get_by_role("button", name="All").click()
    expect(page.get_by_role("button", name="All")).to_be_disabled()
    nodes.nth(0).locator(f".field a[href='#/jobs/{ids[-1]}'].live").click(position={"x": 5, "y": 5})
    expect(page.locator("h1")).to_have_text("j7")
    assert seen.faults == []


def test_a_reader_comes_from_a_job_by_its_lanes_to_a_payload(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    payloads = dispatcher.client.upload("of-lanes", [ItemSpec(name=f"p{nr}") for nr in range(40)])
    spec = JobSpec(name="many", command="./simulate", queue="lanes-of", payloads=payloads)
    (job_id,) = dispatcher.submit(spec)
    pilot = StandIn(dispatcher.url, dispatcher.token("pilot", Scope.PILOT), "lanes-of", "cn01")
    one, now = acquired(pilot.client), time.time()
    got = exchange(pilot.client, one, 40).items
    ends = [
        end(
            item,
            ItemOutcome.FAILED if nr == 7 else ItemOutcome.FINISHED,
            host=NODES[nr % 2],
            slot=str(nr % 4),
            started=now - 50 + nr // 4 * 4,
            ended=now - 47 + nr // 4 * 4,
        )
        for nr, item in enumerate(got)
    ]
    exchange(pilot.client, one, 0, *ends)
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    card = page.locator("section[aria-label=Payloads]")
    card.get_by_text("When they ran, on which nodes").click()
    expect(card.locator(".gantt .node")).to_have_count(2)
    expect(card.locator(".field a")).to_have_count(40)
    _keep(page, "payloads")
    card.locator(f".field a[title^='{job_id}.7 p7, failed']").click()
    expect(card.locator("section[aria-label='Payload 7']")).to_be_visible()
    assert seen.faults == []


def _keep(page: Page, name: str) -> None:
    """A picture for who looks, where one is asked for."""
    if folder := os.environ.get("AILURUS_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
