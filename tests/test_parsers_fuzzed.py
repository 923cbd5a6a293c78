"""H6: whatever a parser is given, it answers, or refuses with the error that its callers know."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol import panda, query_text, units
from ailurus.protocol.errors import AilurusError
from dispatcher.cli.jobfile import JobFiles
from dispatcher.door import http
from dispatcher.panda import bodies
from dispatcher.panda.bodies import BadBody
from dispatcher.refusal import Rejected
from harvester_edge.lint import faults
from plugins.batch import commands, htcondor, pbs, slurm

RECORDED = Path(__file__).parent / "recorded"
ROOT = Path("/nowhere")
SHIPPED = Path(__file__).parents[1] / "site_configs"


def seeds(*patterns: str) -> list[str]:
    return [path.read_text() for one in patterns for path in sorted(RECORDED.glob(one))]


@st.composite
def damaged(draw: st.DrawFn, texts: list[str]) -> str:
    """One of the texts, cut, doubled and overwritten in a few places."""
    text = draw(st.sampled_from(texts))
    chance = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(chance.randint(0, 4)):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        piece = chance.choice(["", "\x00", "\n", '"', "{", "[1]", "null", "-1", "1e999", "|", "é", "9" * 30,
                               text[at : at + 20], "=", "_[0]", "[0-9999999]"])  # fmt: skip
        text = text[:at] + piece + text[min(to, at + chance.randint(0, 30)) :]
    return text


def holds(
    parse: Callable[[str], object],
    texts: list[str],
    *refusals: type[Exception],
) -> None:
    """Every damaged text is parsed, or refused as its callers expect."""

    @settings(max_examples=300)
    @given(st.one_of(damaged(texts), st.text(st.characters(codec="utf-8"), max_size=200)))
    @example("")
    @example("\x00")
    @example("[" * 20_000)
    @example("9" * 5000)
    def fuzzed(text: str) -> None:
        with suppress(*refusals):
            parse(text)

    fuzzed()


CASES = {
    "squeue": (
        lambda text: list(slurm.parse_squeue(text, "a1b2", ROOT)),
        seeds("slurm/squeue*.out"),
    ),
    "sacct": (lambda text: list(slurm.parse_sacct(text, "a1b2", ROOT)), seeds("slurm/sacct*.out")),
    "condor_q": (lambda text: htcondor.parse(text, ROOT), seeds("htcondor/*.json.out")),
    "qstat": (lambda text: list(pbs.parse(text, "a1b2", ROOT)), seeds("pbs/*.json.out")),
    "array tasks": (commands.tasks, ["1-3,7", "[1-10%2]", "0", "1,2,3-5:2"]),
    "size in bytes": (units.size_bytes, ["4GiB", "500M", "1.5T", "12"]),
    "size in MB": (units.size_mb, ["4GiB", "500M", "1.5T", "12"]),
    "query": (
        query_text.parse,
        ['state:failed (age<2h or not label:a=b,"c") text:"disk full"', "id:3-9 sweep* code!=7,8"],
    ),
    "duration": (units.duration_s, ["90m", "1-12:00:00", "12:00:00", "1.5h"]),
}


@pytest.mark.parametrize("name", CASES)
def test_h6_a_text_of_a_batch_system_or_a_person_never_breaks_its_parser(name):
    parse, texts = CASES[name]
    assert texts
    holds(parse, texts, AilurusError)


def test_h6_a_number_of_panda_is_a_number_or_none():
    holds(panda.number, ["1", "1.0", "NULL", "1e3", "-7", " 12 "])


@settings(max_examples=300)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "",
            "x",
        ]
    ),
    st.booleans(),
)
@example(b"\x1f\x8b", "application/json", False)
@example(b"[" * 50_000, "application/json", False)
@example(
    b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\n\r\n--b--",
    "multipart/form-data; boundary=b",
    False,
)
def test_h6_a_body_of_a_panda_client_is_read_or_refused(body, kind, packed):
    headers = {b"content-type": kind.encode()}
    try:
        given_ = bodies.parameters("POST", headers, b"", (b"\x1f\x8b" if packed else b"") + body)
    except (BadBody, Rejected):
        return
    assert isinstance(given_, dict)


@settings(max_examples=300)
@given(
    damaged(
        [json.dumps({"request_id": "r", "jobs": [{"name": "j", "command": "true", "cores": 2}]})]
    )
)
def test_h6_a_submission_is_read_or_refused(text):
    with suppress(Rejected):
        assert isinstance(
            http.decode(msgspec.json.Decoder(m.Submit).decode, text.encode()), m.Submit
        )


def test_h6_a_job_file_is_read_or_refused(tmp_path):
    path = tmp_path / "jobs.yaml"

    def read(text: str) -> None:
        path.write_text(text)
        JobFiles([str(path)])

    holds(
        read,
        ["name: j\ncommand: true\nmemory: 4GiB\nsweep: {i: [1, 2]}\n", "- {name: a, command: b}\n"],
        AilurusError,
    )


TEXTS = [path.read_text() for path in sorted(SHIPPED.glob("*.yaml"))]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged(TEXTS))
@example("site: 2026-99-99")
@example(f"site: {'9' * 5000}")
@example(f"extends: {'a' * 300}")
@example(TEXTS[0].replace("https://", "https://[", 1))
def test_h6_a_site_file_is_judged(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    # whatever it says, it can be shown: with its line, and the rule that it breaks
    assert all(one.line >= 0 and one.rule and str(one) for one in faults(path))
