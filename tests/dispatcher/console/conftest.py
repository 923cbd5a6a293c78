"""A real dispatcher, a real browser, and a page that is signed in."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile

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
MAIN = "import sys; from dispatcher.cli import main; sys.exit(main())"
ON_VIOLATION = """addEventListener("securitypolicyviolation", (e) =>
    console.error(`CSP ${e.violatedDirective} ${e.blockedURI} ${e.sample}`))"""


@dataclass
class Dispatcher:
    """A dispatcher in a process of its own."""

    directory: Path
    url: str = "127.0.0.1:0"
    process: subprocess.Popen[str] | None = None

    @property
    def token_file(self) -> Path:
        return self.directory / "queue.admin-token"

    @property
    def client(self) -> Client:
        return Client(self.url, TokenFile(self.token_file))

    def start(self, *options: str) -> None:
        """Serve, on the same port as before if there was one."""
        store = f"sqlite:///{self.directory}/queue.db"
        base = [sys.executable, "-c", MAIN]
        if not self.token_file.exists():
            subprocess.run([*base, "init", "--store", store], check=True, capture_output=True)
        listen = self.url.removeprefix("http://")
        with (self.directory / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *base,
                    "serve",
                    "--store",
                    store,
                    "--listen",
                    listen,
                    "--heartbeat",
                    "1s",
                    *options,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().removeprefix("listening on ")
        self.process.stdout.readline()

    def stop(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.process.stdout.close()

    def submit(self, *jobs: JobSpec) -> list[int]:
        ask = m.Submit(request_id=uuid.uuid4().hex, jobs=jobs)
        return list(self.client.call("submit", ask, answer=m.Submitted).job_ids)

    def token(self, subject: str, *scopes: str) -> str:
        ask = m.NewToken(subject=subject, scopes=scopes or (Scope.READ,))
        return self.client.call("token", ask, answer=m.Token).token


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    server = Dispatcher(tmp_path_factory.mktemp("dispatcher"))
    server.start()
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
