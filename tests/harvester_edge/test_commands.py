"""What the verbs say, with edge and dispatcher down."""

from __future__ import annotations

import errno
import io
import os
import time
import urllib.request
from collections import deque
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Refused
from harvester_edge import metrics
from harvester_edge.cli import main, watch
from harvester_edge.cli.why import HistoryAnswer, WhyAnswer
from harvester_edge.files import write_whole
from harvester_edge.status import glance


@pytest.fixture
def config(world, tree, tmp_path: Path):
    """A site whose edge has run for a while and is gone."""
    world.dispatcher.jobs = 9
    world.cycle(3)
    file = tmp_path / "site.yaml"
    file.write_bytes(msgspec.json.encode(tree))
    return str(file)


def test_why_says_the_binding_limit_in_words(config, capsys):
    assert main(["why", "--config", config]) == 0
    said = capsys.readouterr().out
    assert "demo: submit nothing: 4 of 4 exist (total)" in said
    assert "no edge runs now" in said
    assert "seen: 9 jobs wait in demo: 1 cores" in said
    for name in ("demand", "total", "queued", "per_cycle"):
        assert name in said


def test_why_json_is_one_document(config, capsys):
    assert main(["why", "--config", config, "--json"]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out, type=WhyAnswer)
    assert answer.decision.binding.name == "total"


def test_status_and_workers_read_the_book_alone(config, capsys):
    assert main(["status", "--config", config]) == 0
    assert "the edge does not run" in capsys.readouterr().out
    assert main(["status", "--config", config, "--json"]) == 0
    status = msgspec.json.decode(capsys.readouterr().out)
    assert status["slots"][0]["phases"] == {"queued": 4}
    assert main(["workers", "--config", config, "--json"]) == 0
    assert len(msgspec.json.decode(capsys.readouterr().out)["workers"]) == 4


def test_trace_follows_any_name_of_a_worker(config, world, capsys):
    ((tag, _),) = world.batch.orders
    world.dispatcher.register(tag, 1)
    world.cycle()
    for name in (tag, f"{tag}.1", "2", "1"):  # intent, one of it, batch id, worker id
        assert main(["trace", name, "--config", config, "--json"]) == 0
        chain = msgspec.json.decode(capsys.readouterr().out)["chain"]
        assert any(
            (one["worker"]["intent"], one["worker"]["index"], one["worker"]["worker_id"])
            == (tag, 1, 1)
            for one in chain
        )
    assert main(["trace", "nonsense", "--config", config]) == 65
    assert "is no intent, batch id or worker" in capsys.readouterr().err


def test_trace_takes_the_id_that_a_batch_system_shows_for_a_whole_array(config, world, capsys):
    world.dispatcher.register(world.batch.orders[0][0], 1)
    world.cycle()
    workers = world.workers()
    for form in ("1001_{}", "1001[{}].server", "1001.{}"):
        with world.edge.book.change():
            world.edge.book.keep(
                msgspec.structs.replace(one, batch_id=form.format(one.index)) for one in workers
            )
        for name in ("1001", "1001_[2-3]", "1001[]", "1001[].server"):
            assert main(["trace", name, "--config", config, "--json"]) == 0
            chain = msgspec.json.decode(capsys.readouterr().out)["chain"]
            assert [one["worker"]["index"] for one in chain] == [0, 1, 2, 3]
        assert main(["trace", form.format(2), "--config", config, "--json"]) == 0
        (one,) = msgspec.json.decode(capsys.readouterr().out)["chain"]
        assert one["worker"]["index"] == 2
    assert world.edge.book.search("100") == []
    assert world.edge.book.search("1001[7].server") == []


@pytest.mark.parametrize("options", [[], ["--job"]])
def test_trace_of_a_number_that_nothing_has_is_no_such_thing(config, options, capsys):
    assert main(["trace", "9" * 28, *options, "--config", config]) == 65
    assert f"{'9' * 28} is no intent" in capsys.readouterr().err


def test_a_history_is_one_document_too(config, world, capsys):
    world.configure(max_total=1)
    world.cycle()
    assert main(["why", "--history", "9", "--json", "--config", config]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out, type=HistoryAnswer)
    assert len(answer.decisions) > 1
    assert [one.at for one in answer.decisions] == sorted(one.at for one in answer.decisions)
    assert main(["why", "--history", "9" * 30, "--config", config]) == 0


@pytest.mark.parametrize(("status", "code"), [(401, 77), (403, 77), (500, 69)])
def test_tick_says_by_its_code_that_the_token_is_refused(config, monkeypatch, status, code, capsys):
    class Refuses:
        def call(self, *_, **__):
            raise Refused(m.Problem(title="this token has expired", status=status))

    monkeypatch.setattr("harvester_edge.connect.client", lambda _: Refuses())
    assert main(["tick", "--config", config]) == code
    assert "this token has expired" in capsys.readouterr().out


def test_render_shows_the_script_and_submits_nothing(config, world, capsys):
    assert main(["render", "--config", config]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#!/bin/sh\n")
    assert "exec /bin/true" in said
    assert len(world.batch.orders) == 1
    assert main(["render", "--config", config, "--slot", "nope"]) == 65


def test_pause_drain_and_resume_are_files_and_may_be_said_twice(config, world, capsys):
    for _ in range(2):
        assert main(["pause", "--config", config, "--reason", "maintenance"]) == 0
    assert "demo is paused" in capsys.readouterr().out
    assert "maintenance" in world.cycle().binding.why
    assert main(["drain", "--config", config, "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["draining"] is True
    assert main(["status", "--config", config]) == 0
    assert "; paused" in capsys.readouterr().out
    for _ in range(2):
        assert main(["resume", "--config", config]) == 0
    assert "online again" in capsys.readouterr().out
    assert world.cycle().binding.name != "paused"


def test_metrics_are_text_a_file_or_an_address(config, world, tmp_path, capsys):
    assert main(["metrics", "--config", config]) == 0
    said = capsys.readouterr().out
    assert 'ailurus_edge_workers{phase="queued",site="demo",slot="std"} 4.0' in said
    assert 'ailurus_edge_limit_binds{limit="total",site="demo"} 1.0' in said
    assert 'ailurus_edge_up{site="demo"} 0.0' in said
    assert main(["metrics", "--config", config, "--out", str(tmp_path / "demo.prom")]) == 0
    assert (tmp_path / "demo.prom").read_text() == said
    assert list(text_string_to_metric_families(said))
    server = metrics.serve(world.edge.site, "127.0.0.1:0")
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read().decode() == said
    finally:
        server.shutdown()
        server.server_close()


def test_the_page_that_moves_shows_slots_the_decision_and_the_binding_limit(world):
    world.dispatcher.jobs = 9
    world.cycle(2)
    history = deque(maxlen=9)
    console = Console(width=120, record=True, file=io.StringIO())
    for _ in range(3):
        console.print(watch.page(glance(world.edge.site), history))
    said = console.export_text()
    assert "submit nothing: 4 of 4 exist (total)" in said
    assert "std" in said
    assert "██" in said
    assert len(history) == 3


def test_a_wrong_verb_or_option_says_what_would_be_right(config, capsys):
    assert main(["statsu", "--config", config]) == 64
    assert "did you mean `status`?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="64"):
        main(["status"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["relay", "--heartbeat", "x"], 64, "--heartbeat: 'x' is not a duration (write 90m, 2h"),
        (["relay", "--heartbeat", "0s"], 64, "--heartbeat: '0s' is no time at all"),
        (["relay", "--log", "/nonexistent/x"], 73, "cannot write the log /nonexistent/x: No such"),
        (["run", "--metrics-listen", "127.0.0.1:99999"], 64, "'127.0.0.1:99999' is no address"),
        (["run", "--metrics-listen", "nowhere"], 64, "'nowhere' is no address"),
        (["run", "--log", "/nonexistent/x"], 73, "cannot write the log /nonexistent/x: No such"),
        (["run", "--log", "/"], 73, "cannot write the log /: Is a directory"),
        (["metrics", "--out", "/nonexistent/x.prom"], 73, "/nonexistent/x.prom: No such file"),
        (["workers", "--limit", "-1"], 64, "--limit: '-1' is no number of things"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_an_option_is_said_without_a_traceback(config, words, code, said, capsys):
    try:
        ended = main([*words, "--config", config])
    except SystemExit as usage:
        ended = usage.code
    assert ended == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_a_page_for_prometheus_leaves_nothing_beside_a_directory(config, tmp_path, capsys):
    place = tmp_path / "place"
    place.mkdir()
    assert main(["metrics", "--out", str(place), "--config", config]) == 73
    assert f"cannot write {place}: Is a directory" in capsys.readouterr().err
    assert not (tmp_path / ".place.new").exists()


def test_an_address_of_no_host_is_said(world):
    for listen in (f"{'x' * 70}:80", "127.0.0.1:99999"):
        with pytest.raises(AilurusError, match="cannot listen on"):
            metrics.serve(world.edge.site, listen)


def test_lint_exits_by_what_it_found(config, tmp_path, capsys):
    assert main(["lint", "--config", config]) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema: 1\nsiet: x\n")
    assert main(["lint", config, str(bad)]) == 78
    assert "bad.yaml:2: siet: no such key; did you mean `site`?" in capsys.readouterr().out


def test_a_book_of_another_site_or_a_newer_edge_is_refused(config, world, tree, tmp_path, capsys):
    tree["site"] = "other"
    other = tmp_path / "other.yaml"
    other.write_bytes(msgspec.json.encode(tree))
    assert main(["status", "--config", str(other)]) == 78
    assert "is the book of site demo" in capsys.readouterr().err
    world.edge.book._db.execute("insert into migration values (9999, '9999_x.post.sql', '', 0)")
    assert main(["tick", "--config", config]) == 78
    assert "book.sqlite: made by a newer version" in capsys.readouterr().err


def test_b5_a_credential_that_others_can_read_or_swap_is_refused_at_start(config, tmp_path, capsys):
    token = tmp_path / "edge.token"
    token.chmod(0o644)
    assert main(["tick", "--config", config]) == 78
    assert f"others can use {token} (chmod 600 {token})" in capsys.readouterr().err
    token.chmod(0o600)
    token.rename(tmp_path / "real")
    token.symlink_to(tmp_path / "real")
    assert main(["tick", "--config", config]) == 78
    assert "is a symbolic link" in capsys.readouterr().err
    token.unlink()
    assert main(["tick", "--config", config]) == 78
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pause", "resume", "drain"])
def test_what_cannot_be_written_is_a_sentence_and_no_bug(config, world, capsys, verb):
    (world.edge.state / verb.replace("resume", "pause")).mkdir()
    assert main([verb, "--config", config]) == 78
    assert "Is a directory" in (said := capsys.readouterr().err)
    assert "Traceback" not in said


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_whatever_is_called_pause_pauses_and_holds_up_no_cycle(world, make):
    world.dispatcher.jobs = 9
    make(world.edge.state / "pause")
    assert world.cycle().binding.name == "paused"


def test_an_edge_that_finishes_no_cycle_is_told(config, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "harvester_edge.status.holder", lambda state: 7 if state == world.edge.state else None
    )
    for name in ("lock", "alive"):
        (world.edge.state / name).touch()
    assert glance(world.edge.site).down == ()
    for name in ("lock", "alive"):
        os.utime(world.edge.state / name, (time.time() - 3600,) * 2)
    for verb in ("status", "why"):
        assert main([verb, "--config", config]) == 0
        assert (
            "DOWN: edge: process 7 has finished no cycle for 60 minutes" in capsys.readouterr().out
        )
    (world.edge.state / "lock").touch()  # it has begun just now
    assert glance(world.edge.site).down == ()


def test_a_user_without_an_account_may_pause_too(config, world, monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert main(["pause", "--config", config]) == 0
    assert (world.edge.state / "pause").read_text() == f"by user {os.getuid()}\n"


@pytest.mark.parametrize("verb", ["pause", "drain"])
def test_a_full_disk_keeps_nobody_from_pausing(config, world, capsys, monkeypatch, verb):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("harvester_edge.files.os.fchmod", full)
    assert main([verb, "--config", config, "--reason", "the disk is full"]) == 0
    assert world.cycle().binding.name == "paused"
    with pytest.raises(OSError, match=r"No space left on device: .*/named"):
        write_whole(world.edge.state / "named", b"text")
    assert not list(world.edge.state.glob(".*.new"))


@pytest.mark.parametrize(
    ("blocks", "inodes", "full"), [(0, 9, True), (9999, 0, True), (9999, 9, False)]
)
def test_a_full_disk_is_told_though_nothing_can_be_written(
    world, monkeypatch, blocks, inodes, full
):
    """Each cycle fails, and that it does lies where there is no room for it."""
    monkeypatch.setattr(
        "harvester_edge.status.holder", lambda state: 7 if state == world.edge.state else None
    )
    (world.edge.state / "lock").touch()
    disk = os.statvfs_result((4096, 4096, 9999, blocks, blocks, 9999, inodes, inodes, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    world.cycle()
    said = "; ".join(glance(world.edge.site).down)
    assert ("is full: make room" in said) is full


@pytest.mark.parametrize("fault", [errno.ENOENT, errno.EEXIST])
def test_two_who_pause_at_once_both_do(config, world, monkeypatch, fault):
    def beaten(path: Path, text: bytes) -> None:
        raise OSError(fault, os.strerror(fault), str(path))

    monkeypatch.setattr("harvester_edge.files.write_whole", beaten)
    assert main(["pause", "--config", config]) == 0
    assert world.cycle().binding.name == "paused"


def test_r7_the_version_before_reads_a_book_that_this_one_has_written(world):
    (version,) = world.edge.book._db.execute("pragma user_version").fetchone()
    assert version == 2, "raise it only for what the version before cannot bear"
