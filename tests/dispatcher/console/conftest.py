"""A real dispatcher, a real browser, and a page that is signed in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from tests.rig import dispatcher as rig

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
ON_VIOLATION = """addEventListener("securitypolicyviolation", (e) =>
    console.error(`CSP ${e.violatedDirective} ${e.blockedURI} ${e.sample}`))"""


class Dispatcher(rig.Dispatcher):
    """A dispatcher to which a test speaks as its administrator."""

    def submit(self, *jobs: JobSpec) -> list[int]:
        ask = m.Submit(request_id=uuid.uuid4().hex, jobs=jobs)
        return list(self.client.call("submit", ask, answer=m.Submitted).job_ids)


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    server = Dispatcher(tmp_path_factory.mktemp("dispatcher"), "--heartbeat", "1s")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(need: Callable[..., str]) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        rebound = "--host-resolver-rules=MAP rebound.test 127.0.0.1"
        started = playwright.chromium.launch(
            executable_path=need("chromium"), args=[*FLAGS, rebound], timeout=30_000
        )
        yield started
        started.close()


@dataclass
class Seen:
    """What went wrong in a page: must stay empty."""

    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.faults.append(f"error {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))
        page.on("console", lambda told: self._told(told.type, told.text))
        page.add_init_script(ON_VIOLATION)

    def _told(self, kind: str, text: str) -> None:
        # 401 is how the first question of a page that is not signed in is answered
        if kind in ("error", "warning") and "401" not in text:
            self.faults.append(text)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 860})
    made.set_default_timeout(10_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, dispatcher: Dispatcher, seen: Seen) -> Page:
    """The console, signed in as the administrator."""
    opened = context.new_page()
    seen.watch(opened)
    sign_in(opened, dispatcher.url, dispatcher.token_file.read_text().strip())
    return opened


def sign_in(page: Page, url: str, token: str) -> None:
    page.goto(f"{url}/console/")
    page.fill("#token", token)
    page.click("button.primary")
    page.wait_for_selector(".badge[data-status=live]")
