"""The payloads of a job in headless Chromium, over a real dispatcher."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ailurus.protocol.api import Scope
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import JobSpec
from tests.dispatcher.cli.test_items import acquired, end, exchange
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_comes_from_a_job_to_the_payload_that_failed_and_its_output(
    page: Page, dispatcher: Dispatcher, seen: Seen, scheme: str
):
    specs = [ItemSpec(name=f"run{nr}", arguments=("--seed", str(nr))) for nr in range(120)]
    payloads = dispatcher.client.upload(f"of-{scheme}", specs)
    spec = JobSpec(name="many", command="./simulate", queue=scheme, payloads=payloads)
    (job_id,) = dispatcher.submit(spec)
    pilot = StandIn(dispatcher.url, dispatcher.token("pilot", Scope.PILOT), scheme, "node-1")
    one = acquired(pilot.client)
    got = exchange(pilot.client, one, 9).items
    hostile = "<img src=x onerror=alert(1)>\n"
    failed = end(got[3], ItemOutcome.FAILED, exit_code=3, stderr_tail=hostile, host="node-1")
    exchange(pilot.client, one, 0, failed, *(end(item) for item in got[4:]))
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
    card = page.locator("section[aria-label=Payloads]")
    rows = card.locator("tbody tr")
    expect(rows).to_have_count(50)
    card.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(100)
    card.get_by_role("link", name="failed 1").click()
    expect(rows).to_have_count(1)
    card.get_by_role("link", name="3", exact=True).click()
    chosen = card.locator("section[aria-label='Payload 3']")
    expect(chosen).to_contain_text("it failed on node-1 in attempt 1, which was its last")
    expect(chosen.locator("pre[aria-label=stderr]")).to_have_text(hostile.strip())
    faults = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in faults] == []
    exchange(pilot.client, one, 0, end(got[0]))
    expect(card.get_by_role("link", name="finished 6")).to_be_visible(timeout=10_000)
    assert seen.faults == []
