"""The client verbs: what they print, how they exit, where their token comes from."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest

from ailurus.output import Output, clean
from ailurus.protocol import messages as m
from ailurus.protocol.messages import FailureCell
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token
from dispatcher.cli import VERBS, exits
from dispatcher.cli.connection import found_token
from dispatcher.cli.failures import matrix
from dispatcher.cli.show import attempt_cells
from dispatcher.cli.token import scopes
from harvester_edge.lint.addresses import token_remedy
from tests.dispatcher.cli.conftest import ONE, ids
from tests.dispatcher.helpers import BIG


def test_submit_prints_the_job_ids_and_the_others_show_them(run, jobfile):
    (job,) = ids(run("submit", jobfile(ONE)))
    assert job in run("jobs", "--name", "one").out
    assert "one" in run("show", job).out
    assert "jobs\tcount" in run("status").out
    queues = [line.split("\t") for line in run("queues").out.splitlines()]
    # Other tests have queues on the same dispatcher.
    assert queues[0][0] == "queue"
    assert "q" in [line[0] for line in queues[1:]]
    assert run("workers").code == 0
    assert f"job {job}" in run("show", job).out.replace("\t", " ")
    assert "submitted" in run("events").out


def test_a_job_is_shown_with_its_image(run, jobfile):
    (job,) = ids(run("submit", jobfile(f"{ONE}container: /images/a.sif\n")))
    assert "container\t/images/a.sif\n" in run("show", job).out


@pytest.mark.parametrize("verb", ["status", "jobs", "queues", "workers"])
def test_json_is_one_document_with_its_schema(run, verb):
    document = json.loads(run(verb, "--json").out)
    assert document["schema"].startswith("ailurus.v1.")


def test_events_are_json_lines(run, jobfile):
    ids(run("submit", jobfile(ONE)))
    events = [json.loads(line) for line in run("events", "--json").out.splitlines()]
    assert [one["seq"] for one in events] == sorted({one["seq"] for one in events}) != []


def test_a_sweep_of_ten_thousand_is_one_call(run, jobfile):
    text = "name: s{i}\ncommand: echo {i}\nqueue: sweep\nsweep: {i: {from: 1, to: 10000}}\n"
    assert len(ids(run("submit", jobfile(text)))) == 10_000


def test_a_dry_run_submits_nothing(run, jobfile):
    ran = run("submit", "--dry-run", jobfile("name: dry\ncommand: x\n"))
    assert (ran.code, ran.out) == (0, "1 job is good\n")
    assert "dry" not in run("jobs").out


def test_a_bad_file_names_line_and_field_and_exits_with_65(run, jobfile):
    ran = run("submit", jobfile(ONE + "coers: 1\n"))
    assert ran.code == exits.DATA
    assert "jobs.yaml:4: jobs[0].coers: no such field (did you mean `cores`?)" in ran.err


def test_a_request_id_of_ones_own_gives_the_same_jobs_again(run, jobfile):
    name = jobfile(ONE)
    assert ids(run("submit", "--request-id", "mine", name)) == ids(
        run("submit", "--request-id", "mine", name)
    )


def test_the_same_file_twice_is_two_submissions(run, jobfile):
    name = jobfile(ONE)
    assert ids(run("submit", name)) != ids(run("submit", name))


def test_a_submission_that_was_not_acknowledged_keeps_its_request_id(
    run, jobfile, tmp_path, monkeypatch
):
    taken = []

    def lost(self, jobs, request_id=None):
        taken.append(submit(self, jobs, request_id))
        raise KeyboardInterrupt

    submit = Client.submit
    monkeypatch.setattr(Client, "submit", lost)
    name = jobfile(ONE)
    assert run("submit", name).code == 130
    (kept,) = (tmp_path / "state" / "ailurus" / "submissions").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    monkeypatch.setattr(Client, "submit", submit)
    assert ids(run("submit", name)) == [str(taken[0].job_ids[0])]
    assert not kept.exists()


@pytest.mark.slow
def test_a_submit_killed_at_any_time_and_repeated_gives_exactly_its_jobs(
    environment, server, jobfile, tmp_path
):
    words = [
        sys.executable,
        "-c",
        "import sys; from dispatcher.cli import main; sys.exit(main())",
        "submit",
    ]
    name = jobfile(
        "name: k{i}\ncommand: echo {i}\nqueue: killed\nsweep: {i: {from: 1, to: 10000}}\n"
    )
    told = 0  # once the caller has the ids, asking again is asking for more
    for after in (0.2, 0.3, 0.4, 0.5, 0.6):
        with (tmp_path / "said").open("w+") as said:
            process = subprocess.Popen([*words, name], env=environment, stdout=said)
            time.sleep(after)
            process.send_signal(signal.SIGKILL)
            process.wait()
            told += len((tmp_path / "said").read_text().splitlines()) == 10_000
    done = subprocess.run(
        [*words, name], env=environment, check=True, capture_output=True, text=True
    )
    first = [int(word) for word in done.stdout.split()]
    queue = next(q for q in server.client.overview().queues if q.name == "killed")
    assert len(first) == 10_000
    assert sum(queue.states.values()) == 10_000 * (1 + told)


def test_cancel_and_retry(run, jobfile):
    (job,) = ids(run("submit", jobfile(ONE)))
    assert run("cancel", job).out == f"job\tresult\n{job}\tcancelled\n"
    assert run("cancel", job).out == f"job\tresult\n{job}\twas final\n"
    again = json.loads(run("retry", job, "--json").out)
    assert again["job_ids"][0] > int(job)


def test_a_job_that_is_not_there_is_66(run):
    ran = run("show", "999999")
    assert ran.code == exits.NO_INPUT
    assert "there is no job 999999" in ran.err


def test_an_error_is_json_for_who_wants_json(run, jobfile):
    told = json.loads(run("show", "999999", "--json").err)
    assert (told["schema"], told["exit_code"]) == ("ailurus.v1.Error", exits.NO_INPUT)
    assert "there is no job 999999" in told["message"]
    lines = run("submit", "--json", jobfile(ONE + "coers: 1\nmemori: 1\n")).err.splitlines()
    assert [json.loads(line)["message"][:13] for line in lines] == ["no such field"] * len(lines)
    assert len(lines) > 0


def test_a_token_names_its_groups(run, tmp_path):
    path = tmp_path / "token"
    ran = run("token", "--subject", "eve", "--group", "/atlas", "--group", "b", "--out", str(path))
    assert ran.code == 0
    claims = path.read_text().split(".")[1]
    told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert told["wlcg.groups"] == ["/atlas", "b"]


def test_a_token_is_made_into_a_file_for_this_user_only(run, tmp_path, server):
    path = tmp_path / "edge-token"
    ran = run(
        "token",
        "--subject",
        "edge-a",
        "--scope",
        "edge",
        "--site",
        "a",
        "--lifetime",
        "1h",
        "--out",
        str(path),
    )
    assert ran.code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text().strip()
    assert token not in ran.out
    hello = m.Hello(site="a", instance="i", slots=())
    assert Client(server.url, fixed_token(token)).call("hello", hello, answer=m.Welcome).epoch == 1
    assert run("status", "--token-file", str(path)).code == exits.NO_PERMISSION


def test_the_command_by_which_the_edge_says_a_token_is_made_makes_it(run, tmp_path):
    path = tmp_path / "not" / "there" / "yet.token"
    words = token_remedy("edge", "a", str(path)).split("`")[1].split()
    ran = run(*words[1:])
    assert ran.code == 0, ran.err
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_attempt_that_waited_for_its_slot_did_not_stage_for_so_long():
    times = {"started": 1.0, "running": 11.0, "holding": 12.0}
    one = m.Attempt(attempt_nr=1, worker_id=1, state="finished", **times, timing={"wait": 9.0})
    assert attempt_cells(one)[5:7] == ("1.0s", "1.0s")
    short = m.Attempt(
        attempt_nr=1, worker_id=1, state="finished", timing={"stage_in": 0.2, "run": 0.4}
    )
    assert attempt_cells(short)[5:7] == ("0.2s", "0.4s")


def test_words_of_scopes():
    assert scopes(["read", "compute.create"], None) == ("compute.read", "compute.create")
    assert scopes([], "a") == ("ailurus.edge:a",)
    assert len(scopes([], None)) == 4
    with pytest.raises(exits.CommandError):
        scopes(["edge"], None)


def test_no_dispatcher_is_69(run):
    assert run("retry", "1", "--url", "http://127.0.0.1:1").code == exits.UNAVAILABLE


def test_a_bad_token_is_77_and_none_is_78(run, tmp_path, monkeypatch):
    bad = tmp_path / "bad"
    bad.write_text("x.y.z")
    assert run("status", "--token-file", str(bad)).code == exits.NO_PERMISSION
    assert run("status", "--token-file", str(tmp_path / "none")).code == exits.CONFIGURATION
    monkeypatch.delenv("AILURUS_TOKEN_FILE")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert run("status").code == exits.CONFIGURATION


def test_a_token_is_looked_for_in_the_order_of_wlcg(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", os.getuid)
    runtime = tmp_path / f"bt_u{os.getuid()}"
    runtime.write_text("t")
    everything = {
        "AILURUS_TOKEN_FILE": "/1",
        "BEARER_TOKEN": "2",
        "BEARER_TOKEN_FILE": "/3",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    assert str(found_token("/0", everything)[0]) == "/0"
    assert str(found_token(None, everything)[0]) == "/1"
    del everything["AILURUS_TOKEN_FILE"]
    assert found_token(None, everything) == (None, "2")
    del everything["BEARER_TOKEN"]
    assert str(found_token(None, everything)[0]) == "/3"
    del everything["BEARER_TOKEN_FILE"]
    assert found_token(None, everything)[0] == runtime


@pytest.mark.parametrize(
    "words", [["sumbit"], ["jobs", "--nope"], [], ["show"], ["show", "x"], ["--token", "x"]]
)
def test_wrong_usage_is_64(run, words):
    ran = run(*words)
    assert ran.code == exits.USAGE
    assert ran.err


def test_a_misspelt_verb_is_told_the_right_one(run):
    assert "did you mean `submit`?" in run("sumbit").err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    ran = run(verb, "--help")
    assert ran.code == 0
    assert "usage: dispatcher" in ran.out


def test_client_verbs_import_no_server(environment, server):
    words = "import sys; from dispatcher.cli import main; main(['status']); print(*sys.modules)"
    # What measures coverage loads modules of its own.
    plain = {name: text for name, text in environment.items() if not name.startswith("COVERAGE")}
    ran = subprocess.run(
        [sys.executable, "-c", words], env=plain, check=True, capture_output=True, text=True
    )
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not loaded & {
        "uvicorn",
        "starlette",
        "jwt",
        "cryptography",
        "sqlite3",
        "asyncio",
        "rich",
        "yaml",
    }


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_p11_texts_of_jobs_cannot_steer_a_terminal():
    out = Output(stream=Terminal())
    hostile = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\x00"
    out.raw(hostile)
    out.line(hostile)
    out.table(["x"], [[hostile]])
    out.pairs([("x", hostile)])
    body = out._stream.text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert not set(body) & set("\x1b\x07\x9b\u202e\r\x00")
    assert clean("a\tb\nc") == "a\tb\nc"


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = Output(stream=Terminal())
    out.table(["state"], [["failed"]])
    assert "\x1b" not in out._stream.text


@pytest.mark.field("H9")
def test_a_token_that_is_written_to_a_file_is_on_no_screen(run, tmp_path):
    path = tmp_path / "bob.token"
    for more in ((), ("--json",)):
        ran = run("token", "--subject", "bob", "--out", str(path), *more)
        assert ran.code == 0
        assert path.read_text().strip() not in ran.out + ran.err


def test_a_queue_that_nobody_serves_is_told_with_one_that_is_like_it(run, jobfile, server):
    ask = m.Register(instance="i", queue="analysis", total=BIG)
    server.client.call("register", ask, answer=m.Registered)
    ran = run("submit", jobfile("name: one\ncommand: x\nqueue: anaylsis\n"))
    assert "queue anaylsis and no site offers one (did you mean `analysis`?)" in ran.err
    assert run("submit", jobfile("name: one\ncommand: x\nqueue: analysis\n")).err == ""


def test_failures_say_whose_fault_and_lead_to_their_jobs(run):
    told = json.loads(run("failures", "--json").out)
    assert set(told) >= {"kinds", "more", "jobs"}
    lines = run("failures", "--since", "7d", "--fault", "payload").out.splitlines()
    assert lines[0].split("\t")[:4] == ["failed", "code", "fault", "site"]
    assert all(line.split("\t")[2] == "payload" for line in lines[1:])
    assert run("failures", "--fault", "cat").code == 65
    head, *rows = run("failures", "--matrix").out.splitlines()
    assert head.startswith("code\tfailed")
    assert sum(int(row.split("\t")[1]) for row in rows) == told["jobs"]


def test_the_matrix_has_the_worst_code_and_site_first():
    cells = [
        FailureCell(code=c, site=s, jobs=n)
        for c, s, n in ((1, "A", 2), (1, "B", 9), (7, "A", 30), (7, "", 1))
    ]
    assert matrix(cells) == (
        ["code", "failed", "A", "B", "no site"],
        [[7, 31, 30, "", 1], [1, 11, 2, 9, ""]],
    )


def test_undo_says_what_number_it_wants_and_that_it_was_done_before(run, tmp_path):
    refused = run("undo", "last")
    assert refused.code == 64
    assert "no number of an action" in refused.err
    (tmp_path / "jobs.yaml").write_text(ONE)
    both = [ids(run("submit", str(tmp_path / "jobs.yaml")))[0] for _ in range(2)]
    said = run("cancel", *map(str, both), "--yes")
    action = re.search(r"undo (\d+)", said.out + said.err)
    assert action is not None, said
    assert len(run("undo", action[1]).out.splitlines()) == 3
    assert "was brought back before" in run("undo", action[1]).out
