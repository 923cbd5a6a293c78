"""The console behind a real nginx that ends TLS, as docs/operations.md shows it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile, Trust
from tests.dispatcher.console.conftest import Dispatcher, Seen, sign_in
from tests.rig.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.field("W7")]
PAGE = Path(__file__).parents[3] / "docs/operations.md"


def certificate(folder: Path) -> tuple[Path, Path]:
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", chain, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@pytest.fixture
def proxied(tmp_path: Path, need: Callable[..., str]) -> Iterator[tuple[Dispatcher, str, Path]]:
    """A dispatcher, its address behind nginx, and the certificate there."""
    nginx, port = need("nginx", package="nginx-light"), free_port()
    chain, key = certificate(tmp_path)
    (tmp_path / "queue").mkdir()
    served = Dispatcher(tmp_path / "queue", "--public-url", f"https://127.0.0.1:{port}")
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    block = block.replace("http://127.0.0.1:8080", served.url).replace("443 ssl", f"{port} ssl")
    block = block.replace("ailurus.example.org", "127.0.0.1").replace("$host", "$http_host")
    block = block.replace("chain.pem", str(chain)).replace("key.pem", str(key))
    places = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}{block}}}\n"
    )
    process = subprocess.Popen([nginx, "-c", conf, "-e", tmp_path / "error.log"])
    try:
        url = f"https://127.0.0.1:{port}"
        yield served, url, chain
    finally:
        process.terminate()
        process.wait(10)
        served.stop()


def test_a_console_behind_nginx_signs_in_and_lives(
    browser: Browser, proxied: tuple[Dispatcher, str, Path]
):
    served, url, chain = proxied
    client = Client(url, TokenFile(served.token_file), trust=Trust(ca=str(chain)))
    (job,) = client.submit([JobSpec(name="through-nginx", command="true", queue="q")]).job_ids
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(10_000)
    seen, page = Seen(), context.new_page()
    seen.watch(page)
    sign_in(page, url, served.token_file.read_text().strip())
    page.goto(f"{url}/console/#/jobs/{job}")
    expect(page.locator("h1")).to_have_text("through-nginx")
    page.click(".heading button.danger")
    page.click("dialog button.danger")
    expect(page.locator(".heading .state")).to_have_text("cancelled")
    (cookie,) = context.cookies()
    assert cookie["secure"]
    assert seen.faults == []
    context.close()
