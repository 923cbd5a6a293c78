"""A real PanDA server and our dispatcher, side by side, answer the same questions alike."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import pytest

from ailurus.protocol.job import JobSpec, OutputFile
from tests.dispatcher.panda.test_recorded import differences
from tests.real import panda_questions, panda_server
from tests.real.panda_questions import QUEUE, Question
from tests.real.panda_server import ORIGIN, PandaServer
from tests.rig.programs import Rig

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(180)]

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past a site's web proxy
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


class Asker:
    """Somebody with a pilot's token at a server, and a job that it acquired there."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token.strip()
        ask = {"site_name": QUEUE, "prod_source_label": "managed", "node": "first"}
        _, _, answer = self.ask(("POST", "/api/v1/pilot/acquire_jobs", "json", ask))
        self.job: int = answer["data"]["jobs"][0]["PandaID"]
        ask = {"harvester_id": "h", "data": {}}  # an instance is known from its second heartbeat on
        self.ask(("POST", "/api/v1/harvester/heartbeat", "json", ask))

    def ask(self, question: Question) -> tuple[int, str, Any]:
        """Status, content type and content, read if it is JSON."""
        verb, path, how, params = question
        headers = {"Authorization": f"Bearer {self.token}", "Origin": ORIGIN}
        if how.endswith("-accept") or how in ("json", "raw", "get"):
            headers["Accept"] = JSON
        body = None
        if how == "get":
            path += f"?{urlencode(params, doseq=True)}" if params else ""
        elif how.startswith("form"):
            body, headers["Content-Type"] = urlencode(params).encode(), FORM
        else:
            body = (params if how == "raw" else json.dumps(params)).encode()
            body = gzip.compress(body) if how.startswith("gz") else body
            headers["Content-Type"] = JSON
        request = urllib.request.Request(self.url + path, body, headers, method=verb)  # noqa: S310 -- loopback
        try:
            with direct.open(request, timeout=30) as answer:
                status, kind, text = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers["Content-Type"], error.read()
        try:
            return status, kind, json.loads(text)
        except ValueError:
            return status, kind, text.decode()


def settled(question: Question, answer: tuple[int, str, Any]) -> tuple[int, str, Any]:
    """An ended job is `holding` here for some seconds, and there for as long as no Adder comes
    by."""
    status, kind, said = answer
    if "status" not in question[1].lower():
        return answer
    text = json.dumps(said)
    for final in ("failed", "finished"):
        text = text.replace(f"={final}&", "=holding&").replace(
            f'"status": "{final}"', '"status": "holding"'
        )
    return status, kind, json.loads(text)


@pytest.mark.parametrize("release", ["v1", "legacy"])
def test_a_real_server_and_ours_answer_alike(need, release, monkeypatch):
    panda_server.needed(need, release)
    monkeypatch.setenv("PANDA_ADDER_S", "3600")  # or an ended job is another one some time later
    questions = panda_questions.v1 if release == "v1" else panda_questions.legacy
    with PandaServer(release) as real, Rig() as rig:
        for nr in range(8):
            real.job(100 + nr, "true", files=({"lfn": f"{nr}.o", "type": "output"},))
        spec = JobSpec(name="j", queue=QUEUE, command="true", outputs=(OutputFile(name="o"),))
        rig.client.submit([spec] * 8)
        theirs, ours = (
            Asker(real.url, real.token.read_text()),
            Asker(rig.url, rig.pilot_token.read_text()),
        )
        found = []
        for ask, same in zip(questions(theirs.job), questions(ours.job), strict=True):
            there, here = settled(ask, theirs.ask(ask)), settled(same, ours.ask(same))
            unlike = [
                f"{a} there, {b} here" for a, b in zip(there[:2], here[:2], strict=True) if a != b
            ]
            if isinstance(there[2], str) and isinstance(here[2], str):
                unlike += [f"{there[2]!r} there, {here[2]!r} here"] * (there[2] != here[2])
            else:
                unlike += differences(there[2], here[2])
            found += [f"{ask}: {one}" for one in unlike]
        print(f"{release}: {len(questions(0))} questions")
    assert not found, "\n".join(found)
