"""Acting on many jobs in the page: a selection, a question with their number, and the outcome."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from ailurus.protocol.api import Filter, Scope
from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token
from tests.dispatcher.console.conftest import Dispatcher, Seen, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def waiting(dispatcher: Dispatcher, queue: str, n: int = 6) -> list[int]:
    made = (JobSpec(name=f"{queue}-{nr}", command="true", queue=queue) for nr in range(n))
    return dispatcher.submit(*made)


def count(dispatcher: Dispatcher, query: str) -> int:
    return dispatcher.client.count(Filter(query=query)).jobs


def test_jobs_are_selected_by_keys_and_clicks_and_cancelled_after_a_question(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    jobs = waiting(dispatcher, "picked")
    page.goto(f"{dispatcher.url}/console/#/jobs?queue=picked")
    bar = page.locator(".acts")
    expect(page.locator(".tall [type=checkbox]")).to_have_count(6)
    expect(bar).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(bar).to_contain_text("1 selected")
    page.locator(f"[aria-label='Select job {jobs[3]}']").click(modifiers=["Shift"])
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Cancel").click()
    expect(page.locator("dialog h2")).to_have_text("Cancel 3 jobs?")
    page.locator("dialog button.danger").click()
    expect(bar).to_contain_text("Cancelled 3 jobs.")
    assert count(dispatcher, "queue:picked state:cancelled") == 3
    assert count(dispatcher, f"id:{jobs[3]}-{jobs[5]} state:cancelled") == 3
    expect(page.locator(".tall .state[data-group=cancelled]")).to_have_count(3)
    bar.get_by_role("button", name="Undo for 3 jobs that waited").click()
    expect(bar).to_contain_text("3 jobs submitted anew.")
    assert count(dispatcher, "queue:picked state:open") == 6
    assert seen.faults == []


def test_all_that_match_are_moved_however_few_are_shown(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    waiting(dispatcher, "many", 150)
    page.goto(f"{dispatcher.url}/console/#/jobs?query=queue:many%20age<1d")
    page.locator("[aria-label='Select all that are shown']").check()
    page.get_by_role("button", name="Select all that match").click()
    page.locator(".acts").get_by_role("button", name="Move").click()
    expect(page.locator("dialog h2")).to_have_text("Move 150 jobs?")
    waiting(dispatcher, "many", 2)
    page.fill("dialog input", "elsewhere")
    page.locator("dialog button.primary").click()
    expect(page.locator(".acts")).to_contain_text("Moved 150 jobs.")
    assert (count(dispatcher, "queue:elsewhere"), count(dispatcher, "queue:many")) == (150, 2)
    assert seen.faults == []


def test_who_may_only_look_finds_nothing_to_select(
    context: BrowserContext, dispatcher: Dispatcher, seen: Seen
):
    opened = context.new_page()
    seen.watch(opened)
    owner = fixed_token(dispatcher.token("olga", Scope.READ, Scope.CREATE))
    Client(dispatcher.url, owner).submit((JobSpec(name="mine", command="true", queue="looked"),))
    sign_in(opened, dispatcher.url, dispatcher.token("olga", Scope.READ))
    opened.goto(f"{dispatcher.url}/console/#/jobs")
    expect(opened.locator(".tall .row")).to_have_count(1)
    expect(opened.locator("[type=checkbox]")).to_have_count(0)
    assert seen.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_bar_is_accessible_and_fits(page: Page, dispatcher: Dispatcher, scheme, width):
    waiting(dispatcher, "fits")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{dispatcher.url}/console/#/jobs?queue=fits")
    page.locator("[aria-label='Select all that are shown']").check()
    for shown in (".acts", "dialog[open]"):
        expect(page.locator(shown)).to_be_visible()
        found = Axe().run(page).response["violations"]
        told = [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found]
        assert told == [], shown
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if shown == ".acts":
            page.locator(".acts").get_by_role("button", name="Priority").click()


def test_a_query_that_cannot_be_read_is_said_with_its_remedy(page: Page, dispatcher: Dispatcher):
    page.goto(f"{dispatcher.url}/console/#/jobs?query=stat:x")
    expect(page.locator(".trouble")).to_contain_text("at character 1: no field 'stat'")
    expect(page.locator(".trouble")).to_contain_text("did you mean `state`?")
