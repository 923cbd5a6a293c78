"""Submissions in the page: a line each with a bar; one is cancelled and tried again as a whole."""

from __future__ import annotations

import uuid

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from tests.dispatcher.console.conftest import Dispatcher, Seen

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def submit(dispatcher: Dispatcher, name: str, n: int = 6) -> int:
    jobs = tuple(JobSpec(name=f"{name}-{nr}", command="true", queue=name) for nr in range(n))
    labels = {"campaign": name}
    ask = m.Submit(request_id=uuid.uuid4().hex, jobs=jobs, name=name, labels=labels)
    return dispatcher.client.call("submit", ask, answer=m.Submitted).submission


def test_it_is_one_line_that_leads_to_its_page_where_it_is_cancelled_and_restarted(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    number = submit(dispatcher, "whole")
    page.goto(f"{dispatcher.url}/console/#/submissions?label=campaign=whole")
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row.locator(".bar")).to_have_attribute("aria-label", f"Submission {number}: 6 waiting")
    row.locator("th a").first.click()
    expect(page.locator("h1")).to_have_text("whole")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("dialog h2")).to_have_text("Cancel 6 jobs?")
    page.locator("dialog button.danger").click()
    expect(page.get_by_role("status").filter(has_text="Cancelled 6 jobs.")).to_have_count(1)
    expect(page.get_by_label("Table of actions").locator("tbody tr")).to_contain_text("cancel6")
    expect(page.locator("main .bar")).to_have_attribute(
        "aria-label", f"Submission {number}: 6 cancelled"
    )
    page.get_by_role("button", name="Restart all of it").click()
    expect(page.locator(".subject")).to_contain_text(f"tries {number} again")
    expect(page.locator("main .bar")).to_have_attribute(
        "aria-label", ": 6 waiting".join([f"Submission {number + 6}", ""])
    )
    page.locator(".chip", has_text="waiting").click()
    expect(page.locator(".tall .row")).to_have_count(6)
    assert seen.faults == []


def test_a_long_list_has_pages_that_are_links(page: Page, dispatcher: Dispatcher, seen: Seen):
    numbers = [submit(dispatcher, "long", 1) for _ in range(51)]
    page.goto(f"{dispatcher.url}/console/#/submissions?label=campaign=long")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(1)
    expect(rows.locator("td").first).to_have_text(str(numbers[0]))
    page.get_by_role("link", name="Newest").click()
    expect(rows).to_have_count(50)
    assert seen.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_its_pages_are_accessible_and_fit(page: Page, dispatcher: Dispatcher, scheme, width):
    number = submit(dispatcher, "fits")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    for where in ("submissions", f"submissions/{number}"):
        page.goto(f"{dispatcher.url}/console/#/{where}")
        expect(page.locator("main .bar").first).to_be_visible()
        found = Axe().run(page).response["violations"]
        told = [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found]
        assert told == [], where
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where
        # All pages can be reached from the bar.
        last = page.locator(".top nav a").last.bounding_box()
        assert last["x"] + last["width"] <= width
