"""What the mover of Rucio decides by a catalogue's answer; that it moves files, real ones show."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from ailurus.protocol.did import Did
from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import JobError, Moved, NotMoved, ToGet, ToPut
from plugins.data import rucio
from plugins.data.rucio import Rucio
from plugins.data.rucio_errors import rucio_errors_on
from plugins.data.rucio_plugins import Plugin, Plugins, Replica

OPTIONS = Rucio.Options(config="/etc/rucio.cfg", rse="HERE")


def pfn(rse: str, domain: str = "wan", priority: int = 1) -> dict[str, object]:
    return {"rse": rse, "domain": domain, "priority": priority}


def test_the_own_storage_comes_first_and_then_the_better_protocol():
    entry = {
        "pfns": {
            "davs://far/x": pfn("FAR"),
            "root://far/x": pfn("FAR"),
            "davs://here/x": pfn("HERE"),
            "root://here/x": pfn("HERE", "lan"),
            "srm://here/x": pfn("HERE", "lan"),
        }
    }
    assert [place.url for place in rucio._ranked(entry, OPTIONS)] == [
        "root://here/x",
        "davs://here/x",
        "root://far/x",
        "davs://far/x",
    ]


def test_the_last_traces_are_sent_before_it_ends():
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mover = Rucio(OPTIONS)
        url = f"http://127.0.0.1:{server.server_port}"
        mover.__dict__["_client"] = SimpleNamespace(trace_host=url, ca_cert=None)
        mover._trace([{"filename": "a"}, {"filename": "b"}])
        mover.close()
        server.shutdown()
    assert seen == [b'[{"filename":"a"},{"filename":"b"}]']


@pytest.mark.parametrize(
    ("size", "adler32", "good"),
    [(7, "0000abcd", True), (8, "0000abcd", False), (7, "1" * 8, False)],
)
def test_what_arrives_is_held_against_the_catalogue(size, adler32, good):
    file = ToGet(key=1, url="rucio://s:n", path="/x")
    wanted = rucio._Wanted(file, Did("s", "n"), [Replica("HERE", "root://h/x")], 7, "abcd")
    got = rucio._checked(Moved(key=1, size=size, adler32=adler32), wanted)
    assert isinstance(got, Moved) is good
    if isinstance(got, NotMoved):
        assert got.code is Code.GET_ADLER_MISMATCH
        assert "HERE" in got.message


OWN, OTHER = "davs://here:1094/a/b", "davs://far/a/b"


def test_an_http_transfer_may_speak_to_the_server_that_rucio_named_and_to_no_other():
    plugins = Plugins(OPTIONS)
    transfer = plugins.made(plugins.of(Replica("HERE", OWN)))
    transfer.allowed(Url.parse(OWN))
    for elsewhere in (OTHER, "https://here/a/b", "http://here:1094/a/b"):
        with pytest.raises(JobError) as caught:
            transfer.allowed(Url.parse(elsewhere))
        assert caught.value.code is Code.STORAGE_FORBIDDEN


def test_the_sites_token_goes_to_its_own_storage_alone(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    plugins = Plugins(
        Rucio.Options(config="/c", rse="HERE", options={"http": {"token_file": str(token)}})
    )
    sent = {
        rse: plugins.made(plugins.of(Replica(rse, url)))._requests.identity.token(
            Url.parse(url.replace("davs", "https"))
        )
        for rse, url in (("HERE", OWN), ("FAR", OTHER))
    }
    assert sent == {"HERE": "secret", "FAR": ""}


def test_other_plugins_serve_all_places_of_a_scheme():
    plugins = Plugins(Rucio.Options(config="/c", plugins={"davs": "gfal2"}))
    assert plugins.of(Replica("A", OWN)) == plugins.of(Replica("B", OTHER)) == Plugin("gfal2")
    assert plugins.of(Replica("A", "root://h//x")) == Plugin("xrootd")
    assert plugins.of(Replica("A", "file://localhost:0/x")) == Plugin("file")


def test_a_transfer_takes_single_files_though_it_lists_directories(tmp_path):
    (tmp_path / "in").write_bytes(b"content")
    made = Rucio(Rucio.Options(config="/etc/rucio.cfg", roots=(str(tmp_path),)))
    told: list[object] = []
    file = ToGet(key=1, url=f"file://localhost{tmp_path}/in", path=str(tmp_path / "got"))
    made._get_by(Plugin("file"), [file], told.append)
    assert isinstance(told[-1], Moved)
    put = ToPut(key=2, url=f"file://localhost{tmp_path}/out", path=str(tmp_path / "got"), size=7)
    made._put_by(Plugin("file"), [put], told.append)
    assert isinstance(told[-1], Moved)
    assert (tmp_path / "out").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "code", "transient"),
    [
        ("ServerConnectionException", Code.RUCIO_UNAVAILABLE, True),
        ("ServiceUnavailable", Code.RUCIO_UNAVAILABLE, True),
        ("AccessDenied", Code.RUCIO_UNAVAILABLE, False),
        ("DataIdentifierNotFound", Code.NO_SUCH_FILE, False),
        ("RSENotFound", Code.STAGE_IN_FAILED, False),
        ("RucioException", Code.STAGE_IN_FAILED, True),
    ],
)
def test_an_error_of_rucios_has_a_code_and_a_remedy_by_its_type(name, code, transient):
    exception = pytest.importorskip("rucio.common.exception")
    with pytest.raises(JobError) as caught, rucio_errors_on("mc:one"):
        raise getattr(exception, name)
    assert (caught.value.code, caught.value.transient) == (code, transient)
    assert caught.value.remedy


class Catalogue:
    """A client that knows some files, and notes what it is asked for."""

    def __init__(self, *known: str) -> None:
        self.known, self.asked = known, []

    def list_replicas(self, dids, **_: object):
        self.asked.append([did["name"] for did in dids])
        pfns = {"root://here/x": pfn("HERE", "lan")}
        for name in self.known:
            yield {"scope": "s", "name": name, "bytes": 7, "adler32": "0000abcd", "pfns": pfns}

    def lfns2pfns(self, rse, lfns, **_: object):
        self.asked.append(lfns)
        return {lfn: f"root://{rse.lower()}//{lfn}" for lfn in lfns}


def located(client: Catalogue, *urls: str) -> tuple[dict[int, str], dict[int, Code]]:
    made = Rucio(OPTIONS)
    made.__dict__["_client"] = client
    told: list[NotMoved] = []
    files = [ToGet(key=key, url=url, path="/x") for key, url in enumerate(urls)]
    found = made._located(files, told.append)
    return {one.file.key: one.places[0].url for one in found}, {one.key: one.code for one in told}


def test_files_that_nobody_has_registered_yet_are_looked_for_in_one_request():
    client = Catalogue("a")
    found, failed = located(
        client,
        "rucio://s:a?rse=THERE",
        "rucio://s:b?rse=THERE",
        "rucio://s:c?rse=THERE",
        "rucio://s:b?rse=THERE&rse=THERE",
        "rucio://s:d",
    )
    assert found == {
        0: "root://here/x",
        1: "root://there//s:b",
        2: "root://there//s:c",
        3: "root://there//s:b",
    }
    assert failed == {4: Code.NO_SUCH_FILE}
    assert [sorted(asked) for asked in client.asked] == [["a", "b", "c", "d"], ["s:b", "s:c"]]


def test_no_more_is_kept_of_a_catalogues_answer_than_was_asked_for():
    made = Rucio(OPTIONS)
    made.__dict__["_client"] = Catalogue("a", "b", "c")
    assert list(made._replicas([Did("s", "b")])) == [Did("s", "b")]


def test_files_whose_plugin_cannot_be_made_are_left_and_others_removed(tmp_path):
    (tmp_path / "x").touch()

    class Two(Catalogue):
        def lfns2pfns(self, rse, lfns, **_: object):
            return {"s:a": "root://here//a", "s:b": f"file://localhost:0{tmp_path}/x"}

    options = {"xrootd": {"no_such": 1}}
    made = Rucio(Rucio.Options(config="/c", rse="HERE", roots=(str(tmp_path),), options=options))
    made.__dict__["_client"] = Two()
    left = made.delete(["rucio://s:a", "rucio://s:b"])
    assert list(left) == ["rucio://s:a"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options", [{"xrootd": {"no_such": 1}}, {}])
def test_a_plugin_that_cannot_be_made_costs_no_file_of_another(tmp_path, monkeypatch, options):
    monkeypatch.setitem(sys.modules, "XRootD", None)
    (tmp_path / "in").write_bytes(b"content")
    made = Rucio(Rucio.Options(config="/c", roots=(str(tmp_path),), options=options))
    told: list[Moved | NotMoved] = []
    places = ["root://here/x", f"file://localhost{tmp_path}/in"]
    wanted = [
        rucio._Wanted(
            ToGet(key=key, url="rucio://s:n", path=str(tmp_path / f"{key}")),
            Did("s", "n"), [Replica("HERE", place)], 7, None,
        )
        for key, place in enumerate(places)
    ]  # fmt: skip
    made.__dict__["_client"] = SimpleNamespace(account="a")
    again, _ = made._round(wanted, told.append)
    assert not again
    bad, good = sorted(told, key=lambda one: one.key)
    assert isinstance(good, Moved)
    assert isinstance(bad, NotMoved)
    assert bad.code is Code.SERVICE_UNAVAILABLE
    assert "xrootd" in bad.message
    assert bad.remedy
