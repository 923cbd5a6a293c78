"""The console in headless Chromium, over a real dispatcher: what a reader sees and does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec, OutputFile
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.dispatcher.console.conftest import Dispatcher, Seen, sign_in
from tests.dispatcher.console.stand_in import Beating, StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def running(dispatcher: Dispatcher) -> Iterator[tuple[int, StandIn]]:
    """A job that a pilot has."""
    (job_id,) = dispatcher.submit(
        JobSpec(name="z-peak", command="./run", queue="live", outputs=(OutputFile(name="o.root"),))
    )
    token = dispatcher.token("pilot", Scope.PILOT)
    beating = Beating(StandIn(dispatcher.url, token, "live", "node-1.example"))
    while job_id not in {job.job_id for job in beating.pilot.acquire()}:
        time.sleep(0.05)
    yield job_id, beating.pilot
    for left in list(beating.pilot.jobs):
        beating.pilot.report(left)
    beating.end()


def test_the_first_empty_page_says_what_fills_it(page: Page, seen: Seen):
    expect(page.locator(".empty code")).to_have_text("dispatcher submit job.yaml")
    assert seen.faults == []


def test_a_reader_clicks_through_to_a_live_log(
    page: Page, running: tuple[int, StandIn], seen: Seen
):
    job_id, pilot = running
    pilot.say(job_id, "\x1b[32mevent 1\x1b[0m of 3\n")
    page.click("nav a[data-nav=jobs]")
    page.click(f".rowlink[href='#/jobs/{job_id}']")
    expect(page.locator("h1")).to_have_text("z-peak")
    expect(page.locator(".line .fg2")).to_have_text("event 1")
    said = time.monotonic()
    pilot.say(job_id, "event 2 of 3\n")
    expect(page.locator(".line", has_text="event 2 of 3")).to_be_visible()
    assert time.monotonic() - said < 5
    expect(page.locator(".heading .state")).to_have_text("running")
    expect(page.locator(".curves figcaption b")).to_have_text(["CPU", "Memory", "Disk"])
    pilot.report(job_id)
    expect(page.locator(".heading .state")).to_have_text("finished")
    expect(page.locator(".answer.good")).to_contain_text("Finished")
    expect(page.locator(".lanes")).to_be_visible()
    assert seen.faults == []


def test_a_list_moves_by_itself_and_its_filter_is_in_the_address(
    page: Page, running: tuple[int, StandIn], dispatcher: Dispatcher, seen: Seen
):
    job_id, pilot = running
    page.keyboard.press("/")
    page.keyboard.type("queue:live")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{dispatcher.url}/console/#/jobs?queue=live")
    row = page.locator(".tall .row", has=page.locator(f"[href='#/jobs/{job_id}']"))
    expect(row.locator(".state")).to_have_text("running")
    pilot.report(
        job_id, finished=False, code=1305, diagnosis="it broke", remedy="mend it", exit_code=3
    )
    expect(row.locator(".state")).to_have_text("failed")
    expect(row.locator(".c-diagnosis")).to_have_text("1305 it broke")
    (newer,) = dispatcher.submit(JobSpec(name="newer", command="true", queue="live"))
    expect(page.locator(f"[href='#/jobs/{newer}']")).to_be_visible()
    page.click(f"[href='#/jobs/{job_id}']")
    expect(page.locator(".answer.bad")).to_contain_text("mend it")
    page.go_back()
    expect(page.locator("#search")).to_have_value("queue:live")
    assert seen.faults == []


def test_a_job_is_cancelled_after_a_question(page: Page, dispatcher: Dispatcher, seen: Seen):
    (job_id,) = dispatcher.submit(JobSpec(name="stop-me", command="true", queue="nobody"))
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    expect(page.locator(".answer")).to_contain_text("nobody")
    page.click(".heading button.danger")
    page.click("dialog button.danger")
    expect(page.locator(".heading .state")).to_have_text("cancelled")
    page.click("text=Retry as a new job")
    expect(page.locator(".heading .state")).to_have_text("activated")
    expect(page.locator(".crumb .num")).not_to_have_text(str(job_id))
    assert seen.faults == []


def test_a_log_is_followed_until_one_scrolls_up_and_searched(
    page: Page, running: tuple[int, StandIn], dispatcher: Dispatcher, seen: Seen
):
    job_id, pilot = running
    pilot.say(job_id, "".join(f"line {n} {'needle' * (n % 100 == 0)}\n" for n in range(1, 3001)))
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    expect(page.locator(".line", has_text="line 3000 ")).to_be_visible()
    assert page.locator(".line").count() < 100  # only what can be seen exists
    term = page.locator(".term")
    term.hover()
    page.mouse.wheel(0, -4000)
    expect(page.locator(".follow")).to_have_text("follow")
    before = term.evaluate("box => box.scrollTop")
    pilot.say(job_id, "more\n" * 50)
    page.wait_for_timeout(700)
    assert abs(term.evaluate("box => box.scrollTop") - before) < 2
    page.fill("[aria-label='Search the log']", "NEEDLE")
    expect(page.locator(".find [role=status]")).to_have_text("30")
    page.keyboard.press("Enter")
    expect(page.locator(".line.here mark")).to_have_text("needle")
    page.click(".follow")
    expect(page.locator(".line", has_text="more").last).to_be_visible()
    assert seen.faults == []


def test_a_job_shows_how_far_its_files_are_until_its_payload_begins(
    page: Page, running: tuple[int, StandIn], seen: Seen
):
    job_id, pilot = running
    pilot.staging[job_id] = m.Staging(
        files=4, done=1, moved_bytes=2**30, total_bytes=4 * 2**30, seconds=8.0
    )
    page.goto(f"{pilot.url}/console/#/jobs/{job_id}")
    moving = page.get_by_role("progressbar", name="Files moved")
    expect(moving).to_have_attribute("aria-valuenow", "25")
    expect(page.locator(".staged")).to_have_text(
        "1 of 4 files, 1 GiB of 4 GiB, 128 MiB/s, 24 s left"
    )
    pilot.staging.clear()
    expect(page.locator(".heading .state")).to_have_text("running")
    expect(moving).to_have_count(0)
    assert seen.faults == []


def test_pilots_show_their_heartbeat_and_what_they_hold(
    page: Page, running: tuple[int, StandIn], seen: Seen
):
    job_id, _ = running
    page.keyboard.press("g")
    page.keyboard.press("p")
    card = page.locator(".pilot", has_text="node-1.example").first
    expect(card.locator(".pulse")).to_contain_text("heartbeat")
    expect(card.locator(f"[href='#/jobs/{job_id}']")).to_be_visible()
    expect(card.locator(".cells .on")).to_have_count(1)
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page.locator("tbody th", has_text="live")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("dialog[open]")).to_contain_text("Keys")
    page.keyboard.press("Escape")
    assert seen.faults == []


def test_a_site_says_why_it_has_the_pilots_it_has(
    page: Page, dispatcher: Dispatcher, seen: Seen, tmp_path: Path
):
    room = Room(cores=4, memory_mb=8000, disk_mb=8000)
    slots = (m.SlotShape(name="std", queue="tier", room=room),)
    hello = m.Hello(site="tier2", instance="i", slots=slots)
    token = tmp_path / "edge.token"
    token.write_text(dispatcher.token("edge", f"{Scope.EDGE}:tier2"))
    edge = Client(dispatcher.url, TokenFile(token))
    epoch = edge.call("hello", hello, answer=m.Welcome).epoch
    bounds = (
        m.SiteBound(name="demand", room=7, why="7 more would have work"),
        m.SiteBound(name="total", room=0, why="<b>64</b> of 64 exist"),
    )
    word = m.SiteDecision(at=1.0, sentence="submit nothing: full", binding="total", bounds=bounds)
    edge.call("demand", m.DemandRequest(site="tier2", epoch=epoch, word=word), answer=m.Demand)
    page.keyboard.press("g")
    page.keyboard.press("q")
    site = page.locator(".site", has_text="tier2")
    expect(site).to_contain_text("submit nothing: full")
    site.locator("summary").click()
    expect(site.locator("tbody tr", has_text="total")).to_contain_text("<b>64</b> of 64 exist")
    edge.call("demand", m.DemandRequest(site="tier2", epoch=epoch), answer=m.Demand)
    expect(site).to_contain_text("submit nothing: full")  # what was not said again still holds
    assert seen.faults == []


def test_a_viewer_sees_own_jobs_only(context, dispatcher: Dispatcher, seen: Seen):
    (job_id,) = dispatcher.submit(JobSpec(name="not-yours", command="true", queue="x"))
    viewer = context.new_page()
    seen.watch(viewer)
    sign_in(viewer, dispatcher.url, dispatcher.token("bob", Scope.READ))
    viewer.goto(f"{dispatcher.url}/console/#/jobs")
    expect(viewer.locator(".empty")).to_contain_text("No job yet")
    viewer.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    expect(viewer.locator(".trouble")).to_be_visible()
    assert "not-yours" not in viewer.content()


def test_the_badge_tells_when_the_dispatcher_is_gone_and_back(page: Page, dispatcher: Dispatcher):
    dispatcher.stop()
    expect(page.locator(".badge")).to_contain_text("reconnecting since")
    dispatcher.start()
    expect(page.locator(".badge")).to_have_text("live", timeout=15_000)


def test_signing_out_ends_the_session(page: Page, dispatcher: Dispatcher):
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""
    page.click("[aria-label='Sign out']")
    expect(page.locator("#token")).to_be_visible()
    page.context.add_cookies([{**cookie}])  # a copy that somebody kept
    page.reload()
    expect(page.locator("#token")).to_be_visible()


def test_t6_a_token_is_in_no_address_and_not_kept_by_the_page(page: Page, dispatcher: Dispatcher):
    token = dispatcher.token_file.read_text().strip()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    asked = page.evaluate("JSON.stringify(performance.getEntries().map(e => e.name))")
    for part in token.split("."):
        assert part not in kept + asked + page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_pages_are_accessible_and_fit(
    page: Page, running: tuple[int, StandIn], dispatcher: Dispatcher, scheme, width
):
    job_id, pilot = running
    pilot.say(job_id, "\x1b[31mred\x1b[0m plain\n")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    for where in ("", "jobs", f"jobs/{job_id}", "pilots", "queues", "failures", "usage"):
        page.goto(f"{dispatcher.url}/console/#/{where}")
        page.wait_for_timeout(600)
        found = Axe().run(page).response["violations"]
        told = [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found]
        assert told == [], where
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where


@pytest.mark.field("H10")
def test_a_job_that_is_not_there_is_said_to_be_not_there(page: Page, dispatcher: Dispatcher):
    page.goto(f"{dispatcher.url}/console/#/jobs/999999")
    expect(page.locator(".trouble")).to_contain_text("there is no job 999999")
    page.wait_for_timeout(1500)
    expect(page.locator(".badge")).to_have_attribute("data-status", "live")


@pytest.mark.field("H2")
def test_a_log_that_is_cut_says_so_on_the_page(
    page: Page, running: tuple[int, StandIn], dispatcher: Dispatcher, seen: Seen
):
    job_id, pilot = running
    pilot.say(job_id, "first line\n")
    pilot.jobs[job_id][2]["stdout"] = 22_900_000
    pilot.say(job_id, "last line\n")
    pilot.report(job_id, usage=m.Usage(stdout_bytes=22_900_010))
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    expect(page.locator(".term .hole")).to_contain_text("are not kept here")
    expect(page.locator(".line").first).to_contain_text("first line")
    expect(page.locator(".log .note.late")).to_contain_text("21 B of 21.8 MiB are kept here")
    assert seen.faults == []


@pytest.mark.field("H5", "H7")
def test_problems_come_first_and_a_click_leads_to_exactly_the_jobs_that_were_counted(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    token = dispatcher.token("pilot", Scope.PILOT)
    pilot = StandIn(dispatcher.url, token, "broken", "node-9.example")
    dispatcher.submit(*(JobSpec(name=f"b{n}", command="x", queue="broken") for n in range(12)))
    left = 12
    while left:
        for one in pilot.acquire(8):
            told = f"no file /d/{left}/x" if left % 3 else "bus error"
            pilot.report(one.job_id, finished=False, code=1099, diagnosis=told)
            left -= 1
    dispatcher.submit(JobSpec(name="large", command="x", queue="broken"))
    for one in pilot.acquire(1):
        pilot.report(one.job_id, finished=False, code=1104, diagnosis="it grew")
    edge = Client(dispatcher.url, lambda fresh=False: dispatcher.token("e", f"{Scope.EDGE}:mars"))
    slot = m.SlotShape(name="s", queue="q-mars", room=Room(cores=1))
    hello = m.Hello(site="mars", instance="i", slots=(slot,), online=False)
    edge.call("hello", hello, answer=m.Welcome)
    page.goto(f"{dispatcher.url}/console/#/")
    problems = page.locator(".problems li")
    expect(problems.filter(has_text="site mars is paused")).to_be_visible()
    row = problems.filter(has_text="no file /d/")
    expect(row.locator(".note")).to_have_text("8 jobs")
    row.locator("a").click()
    expect(page.locator(".tall .row")).to_have_count(8)
    page.keyboard.press("g")
    page.keyboard.press("f")
    kinds = page.locator("tbody tr")
    expect(kinds.filter(has_text="no file /d/")).to_contain_text("CERN-PROD")
    matrix = page.get_by_role("region", name="Failed jobs by code and site")
    expect(matrix.locator("th", has_text="CERN-PROD")).to_be_visible()
    assert Axe().run(page).response["violations"] == []
    matrix.locator("tr", has_text="1099").get_by_role("link", name="12").first.click()
    expect(page.locator(".tall .row")).to_have_count(12)
    page.go_back()
    page.locator(".chip", has_text="payload").click()
    # Other tests may have left failures that are a payload's.
    expect(kinds.filter(has_text="bus error")).to_have_count(0)
    page.locator(".chip", has_text="input").click()
    kinds.filter(has_text="bus error").get_by_role("link", name="Show these 4 jobs").click()
    expect(page.locator(".tall .row")).to_have_count(4)
    pilot.bye()
    assert seen.faults == []


@pytest.mark.field("H11")
def test_a_user_sees_own_counts_in_overview_and_chips(
    context: BrowserContext, dispatcher: Dispatcher, seen: Seen
):
    dispatcher.submit(JobSpec(name="of-the-admin", command="x", queue="nobody"))
    opened = context.new_page()
    seen.watch(opened)
    sign_in(opened, dispatcher.url, dispatcher.token("carol", Scope.READ))
    expect(opened.locator("[data-count=waiting]")).to_have_text("0")
    opened.goto(f"{dispatcher.url}/console/#/jobs")
    expect(opened.locator(".chip[data-group=waiting] b")).to_have_text("0")
    assert seen.faults == []
