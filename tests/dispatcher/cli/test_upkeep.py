"""`backup`, `restore` and `doctor`, as an operator uses them."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import stat
from contextlib import closing

import pytest
import trustme

from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from dispatcher.cli import main
from dispatcher.cli.exits import CANNOT_CREATE, CONFIGURATION, NO_INPUT


def test_r12_a_served_dispatcher_is_backed_up_lost_and_restored_with_its_tokens(serve, tmp_path):
    running = serve()
    (job,) = running.client.submit([JobSpec(name="kept", command="true")], "r").job_ids
    out = tmp_path / "backup"
    assert main(["backup", "--store", running.store, "--out", str(out)]) == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert main(["backup", "--store", running.store, "--out", str(out)]) == CANNOT_CREATE
    admin = running.token_file.read_text()
    running.kill()
    for path in tmp_path.glob("queue.*"):
        path.unlink()
    assert main(["restore", "--store", running.store, "--from", str(out)]) == 0
    second = serve()
    second.token_file.write_text(admin)
    client = Client(second.url, TokenFile(second.token_file))
    assert client.show(job).row.name == "kept"
    assert client.submit([JobSpec(name="kept", command="true")], "r").job_ids == (job,)


def test_a_folder_that_is_no_back_up_is_told(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/queue.db"
    assert main(["restore", "--store", store, "--from", str(tmp_path)]) == NO_INPUT
    assert "is no back-up" in capsys.readouterr().err


@pytest.fixture
def patient(tmp_path, capsys):
    """A store, and what the doctor says of it: state by check."""
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])

    def examined(*options):
        capsys.readouterr()
        code = main(["doctor", "--store", store, "--json", *options])
        found = json.loads(capsys.readouterr().out)["findings"]
        assert (code == CONFIGURATION) == any(one["state"] == "wrong" for one in found)
        assert all(one["remedy"] for one in found if one["state"] != "ok")
        return {one["check"]: one["state"] for one in found}

    return examined


def test_a_healthy_dispatcher_has_nothing_wrong(patient, server):
    found = patient("--url", server.url)
    assert found.pop("clock") in ("ok", "warning")  # the machine's, not ours
    assert found.pop("disk") in ("ok", "warning")
    assert set(found) == {"keys", "admin token", "store", "migrations", "address"}
    assert set(found.values()) == {"ok"}


def test_what_others_can_read_is_found(patient, tmp_path):
    (tmp_path / "queue.admin-token").chmod(0o644)
    assert patient()["admin token"] == "wrong"
    (tmp_path / "queue.keys.json").chmod(0o640)
    assert patient()["keys"] == "wrong"


def test_a_damaged_a_newer_and_an_older_store_are_told_apart(patient, tmp_path):
    path = tmp_path / "queue.db"
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("delete from migration where number = (select max(number) from migration)")
    assert patient()["migrations"] == "warning"
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("insert into migration values (9999, '9999_future.post.sql', 'x', 0)")
    store.close()
    assert patient()["migrations"] == "wrong"
    path.write_bytes(b"no database" * 1000)
    assert patient()["store"] == "wrong"
    path.unlink()
    assert patient()["store"] == "wrong"


def test_events_of_tomorrow_tell_that_the_clock_went_back(patient, tmp_path):
    with closing(sqlite3.connect(tmp_path / "queue.db")) as store, store:
        store.execute("insert into event (seq, at, kind, data) values (1, 4e9, 'job', '{}')")
    store.close()
    assert patient()["newest event"] == "wrong"


def test_nobody_at_the_address_is_wrong(patient):
    assert patient("--url", "http://127.0.0.1:1")["address"] == "wrong"


@pytest.mark.parametrize(("left_days", "state"), [(-1, "wrong"), (5, "warning"), (100, "ok")])
def test_the_end_of_a_certificate_is_seen_coming(patient, tmp_path, left_days, state):
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=left_days)
    made = trustme.CA().issue_cert("127.0.0.1", not_after=end)
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    assert patient(*files)["certificate"] == state
    (tmp_path / "key.pem").chmod(0o644)
    assert patient(*files)["certificate"] == "wrong"
