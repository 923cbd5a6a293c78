"""Feedback from the page: a face and a line of text, kept once, on every page and after `why`."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from tests.dispatcher.console.conftest import Dispatcher, Seen

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def said(dispatcher: Dispatcher) -> list[tuple[int, str, str]]:
    page = dispatcher.client.call("feedback", m.FeedbackQuery(), answer=m.FeedbackPage)
    return [(row.mood, row.text, row.about) for row in page.feedback]


def test_a_face_and_a_line_reach_the_operators_with_what_they_are_about(
    page: Page, dispatcher: Dispatcher, seen: Seen
):
    (job_id,) = dispatcher.submit(JobSpec(name="x", command="true", queue="nobody"))
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    page.click(".answer button:has-text('Is this clear?')")
    page.get_by_label("poor").check()
    page.fill(".say input:not([type])", "<b>which</b> queue?")
    page.keyboard.press("Enter")
    expect(page.locator(".answer [role=status]")).to_have_text(
        "Thank you: the operators can read it."
    )
    page.click("footer button:has-text('Feedback')")
    page.click("dialog.say button:has-text('Send')")
    # without a face nothing is sent
    expect(page.locator("dialog.say")).to_be_visible()
    page.get_by_label("works for me", exact=True).check()
    page.click("dialog.say button:has-text('Send')")
    expect(page.locator("footer [role=status]")).to_be_visible()
    assert said(dispatcher) == [
        (2, "<b>which</b> queue?", f"why {job_id}"),
        (5, "", f"page #/jobs/{job_id}"),
    ]
    assert seen.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_dialog_is_accessible_and_fits_a_telephone(page: Page, dispatcher, scheme: str):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{dispatcher.url}/console/#/pilots")
    page.click("footer button:has-text('Feedback')")
    page.get_by_label("good").check()
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
