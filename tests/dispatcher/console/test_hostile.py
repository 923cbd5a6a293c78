"""H8 and T10: text from jobs, pilots and tokens is text; pages of others get nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import JobState
from tests.dispatcher.console.conftest import Dispatcher, Seen
from tests.dispatcher.console.stand_in import Beating, StandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = (
    "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"
    "<svg/onload=alert(3)><a href=javascript:alert(4)>x</a>${alert(5)}{{6}}\u202egnp.exe"
)
LABEL = HOSTILE[:480]
KEY = "\"'><img/src=x/onerror=alert(7)><script>alert(8)</script>"
LINK = "\x1b]8;;javascript:alert(9)\x07click\x1b]8;;\x07 \x1b]0;title\x07 \x1b[2J\x1b[31m"
INSIDE = "img, script:not([src]), iframe, object, embed, base, form[action], [onerror], [onload], [style*=url]"


@pytest.fixture(scope="module")
def hostile(dispatcher: Dispatcher) -> Iterator[tuple[int, int]]:
    """A job that failed and one that runs, with every text as hostile as the API takes it."""
    spec = JobSpec(
        name="x",
        command=HOSTILE,
        queue="q",
        environment={"A": HOSTILE},
        container=HOSTILE,
    )
    failed, runs = dispatcher.submit(spec, JobSpec(name="y", script=HOSTILE, queue="q"))
    token = dispatcher.token("p", Scope.PILOT)
    beating = [Beating(StandIn(dispatcher.url, token, queue, LABEL)) for queue in ("q", KEY)]
    pilot = beating[0].pilot
    pilot.acquire()
    for job_id in (failed, runs):
        pilot.say(job_id, f"{LINK}{HOSTILE}\n{HOSTILE}\n")
        pilot.say(job_id, f"{HOSTILE}\n", "stderr")
    pilot.report(
        failed,
        finished=False,
        code=1305,
        diagnosis=HOSTILE,
        remedy=HOSTILE,
        host=LABEL,
        runtime=LABEL,
        stderr_tail=HOSTILE,
        timing={LABEL: 1.0},
        files=(
            m.DoneFile(name=LABEL, url="javascript://h/%0aalert(10)", size=1, adler32="00000001"),
        ),
    )
    yield failed, runs
    for one in beating:
        one.end()


def harmless(page: Page, seen: Seen) -> None:
    page.wait_for_timeout(700)
    assert seen.faults == []
    assert page.locator(f"#app :is({INSIDE})").count() == 0
    # Downloads are of the dispatcher's own routes, which answer with attachments.
    own = f"{page.url.partition('/console/')[0]}/api/ailurus/v1/jobs/"
    links = page.eval_on_selector_all("#app a[href]", "all => all.map(a => a.getAttribute('href'))")
    assert [link for link in links if not link.startswith(("#/", "#main", own))] == []
    assert page.title().endswith("· Ailurus")


@pytest.mark.parametrize("where", ["", "jobs", "pilots", "queues"])
def test_h8_hostile_text_is_inert_in_lists(page, hostile, dispatcher, seen: Seen, where):
    page.goto(f"{dispatcher.url}/console/#/{where}")
    if where != "queues":  # their names are checked where a job is submitted
        expect(page.locator("#app")).to_contain_text("onerror=alert")
    harmless(page, seen)


def test_h8_hostile_text_is_inert_on_a_jobs_page(page, hostile, dispatcher, seen: Seen):
    for job_id in hostile:
        page.goto(f"{dispatcher.url}/console/#/jobs/{job_id}")
        expect(page.locator(".line").first).to_contain_text("click")
        expect(page.locator(".line code").last).to_contain_text("<svg/onload=alert(3)>")
        assert "\u202e" not in page.locator(".term").inner_text()
        page.fill("[aria-label='Search the log']", "<img")
        expect(page.locator("mark").first).to_have_text("<img")
        harmless(page, seen)
        page.click(".tabs button:has-text('stderr')")
        expect(page.locator(".line code").last).to_contain_text("<script>alert(2)</script>")
        harmless(page, seen)


@pytest.mark.parametrize(
    "where", ["jobs?name=HOSTILE", "jobs?state=HOSTILE&__proto__=1", "HOSTILE", "jobs/HOSTILE"]
)
def test_h8_hostile_addresses_are_inert(page, hostile, dispatcher, seen: Seen, where):
    page.goto(f"{dispatcher.url}/console/#/{where.replace('HOSTILE', HOSTILE)}")
    page.wait_for_timeout(400)
    assert [fault for fault in seen.faults if "422" not in fault] == []
    assert page.locator(f"#app :is({INSIDE})").count() == 0


# --- T10 ------------------------------------------------------------------------------------------

EVIL = b"""<!doctype html><title>evil</title><body><script>
const told = async (url, init) => { try { const a = await fetch(url, {credentials: "include", ...init});
  return [a.status, await a.text()]; } catch { return ["blocked", ""]; } };
</script>"""


class Evil(BaseHTTPRequestHandler):
    """A page of somebody else."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(EVIL)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def evil() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


# Another port is the same site, so that the cookie comes along; another name is another site.
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_t10_a_page_of_another_origin_reads_and_changes_nothing(
    page: Page, context: BrowserContext, dispatcher: Dispatcher, evil: int, host
):
    (job_id,) = dispatcher.submit(JobSpec(name="keep", command="true", queue="nobody"))
    other = context.new_page()
    other.goto(f"http://{host}:{evil}/")
    api = f"{dispatcher.url}/api/ailurus/v1"
    body = f'{{"job_ids":[{job_id}]}}'
    for init in (
        {"method": "POST", "body": body},
        {"method": "POST", "body": body, "headers": {"content-type": "application/json"}},
        {"method": "POST", "body": body, "headers": {"x-ailurus": "1"}},
        {"method": "POST", "body": body, "mode": "no-cors"},
        {"method": "PUT", "body": body},
        {"method": "DELETE"},
    ):
        _, text = other.evaluate("([u, i]) => told(u, i)", [f"{api}/jobs/cancel", init])
        assert text == ""
    assert other.evaluate("u => told(u, {})", f"{api}/overview") == ["blocked", ""]
    stream = """u => new Promise(done => { const s = new EventSource(u, {withCredentials: true});
        s.onmessage = s.onopen = () => done("open"); s.onerror = () => { s.close(); done("blocked"); } })"""
    assert other.evaluate(stream, f"{api}/stream?topics=overview") == "blocked"
    form = """([u, b]) => { const f = document.createElement("form"); f.method = "POST"; f.action = u;
        f.enctype = "text/plain"; const i = document.createElement("input"); i.name = b; f.append(i);
        document.body.append(f); f.submit(); }"""
    with other.expect_navigation():
        other.evaluate(form, [f"{api}/jobs/cancel", body])
    assert dispatcher.client.show(job_id).row.state is JobState.ACTIVATED


def test_t10_the_console_cannot_be_framed(context, page: Page, dispatcher: Dispatcher, evil: int):
    other = context.new_page()
    other.goto(f"http://127.0.0.1:{evil}/")
    other.evaluate(
        "u => { const f = document.createElement('iframe'); f.src = u; document.body.append(f); }",
        f"{dispatcher.url}/console/",
    )
    other.wait_for_timeout(800)
    assert all(frame.query_selector("#app") is None for frame in other.frames[1:])


def test_t10_a_name_that_is_rebound_to_us_is_refused(context, dispatcher: Dispatcher):
    port = dispatcher.url.rpartition(":")[2]
    other = context.new_page()
    answer = other.goto(f"http://rebound.test:{port}/console/")
    assert answer is not None
    assert answer.status == 421
    status = other.evaluate("fetch('/api/ailurus/v1/overview').then(a => a.status)")
    assert status == 421
