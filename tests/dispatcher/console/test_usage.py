"""What jobs took, as a page shows it: in headless Chromium, over a real dispatcher."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_an_operator_sees_who_asked_for_what_and_what_was_for_nothing(
    page: Page, dispatcher: Dispatcher, seen: Seen, scheme: str, width: int
):
    queue = f"usage-{scheme}"
    dispatcher.submit(*(JobSpec(name=f"j{n}", command="x", queue=queue, cores=2) for n in range(6)))
    pilot = StandIn(dispatcher.url, dispatcher.token("pilot", Scope.PILOT), queue, "cn01", 24)
    jobs = pilot.acquire(6)
    page.wait_for_timeout(1200)
    for nr, one in enumerate(jobs):
        used = m.Usage(wall_s=1.0, cpu_s=1.5, max_pss_kb=500_000)
        pilot.report(one.job_id, finished=nr < 4, code=0 if nr < 4 else 1305, usage=used)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{dispatcher.url}/console/#/usage?by=queue&range=24h")
    row = page.locator("tbody tr", has_text=queue)
    # Six times two cores and a second, three quarters of it used and a third for nothing.
    expect(row.locator("td.n").nth(0)).to_have_text("0.00333")
    expect(row.locator("td.n").nth(1)).to_have_text("75%")
    expect(row.locator("td.n").nth(2)).to_have_text("33%")
    expect(page.locator(".shares")).to_contain_text("payload’s fault")
    expect(page.locator(".towers > div")).not_to_have_count(0)
    if shots := os.environ.get("SHOTS"):
        page.screenshot(path=Path(shots, f"usage-{scheme}-{width}.png"), full_page=True)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    row.locator("th a").click()
    expect(page.locator(".chip", has_text=f"queue {queue}")).to_be_visible()
    expect(page.locator(".command code")).to_contain_text(f"--queue {queue}")
    expect(page.locator("tbody tr")).to_have_count(1)
