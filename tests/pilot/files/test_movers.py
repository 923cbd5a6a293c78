"""Staging by movers: a job's files go together, each ends for itself, and nothing comes into a job
that was not looked at."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

import plugins
from ailurus import token_discovery
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.url import Url
from pilot.files import delegated_pools, movers, tries
from pilot.files.movers import Movers
from pilot.files.stage import Stage
from pilot.ports import Found, JobError
from pilot.process import mover_pool
from pilot.site import Limits, Storage, bounds_of
from pilot.workdir import Workdir
from plugins.data.gfal2 import Gfal2
from plugins.data.rucio import Rucio
from plugins.data.s3 import S3
from tests.pilot.attempts import attempt_of
from tests.pilot.helpers import guarded
from tests.pilot.process.test_mover_pool import Rig


class Site:
    """A stage whose URLs `x://h/WORD:PATH` the tests' own mover serves."""

    def __init__(self, rig: Rig, directory: Path, **storage: Any) -> None:
        self.store = directory / "store"
        self.store.mkdir(exist_ok=True)
        options = {"trouble": {"marks": str(directory / "marks"), "urls": True}}
        self.storage = Storage(
            plugins={"x": "trouble"},
            allow=("x://h/",),
            options=options,
            **{"outage_tolerance": 0, **storage},
        )
        limits = bounds_of(Limits(), self.storage)
        self.movers = Movers(self.storage, limits, lambda: rig.launch)
        self.stage = Stage(lambda scheme: None, "", limits, self.storage, self.movers)  # type: ignore[arg-type,return-value]
        self.work = Workdir(directory / "1.1")
        self.work.make()

    def input(self, name: str, data: bytes, word: str = "copy", **declared: Any) -> InputFile:
        (self.store / name).write_bytes(data)
        return InputFile(name=name, url=f"x://h/{word}:{self.store}/{name}", **declared)

    def staged(self, *inputs: InputFile) -> dict[str, bytes]:
        self.stage.stage_in(attempt_of("true", inputs=inputs), self.work)
        return {path.name: path.read_bytes() for path in self.work.directory.iterdir()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(mover_pool, "PAUSES_S", (0.0,))
    monkeypatch.setattr(tries, "PAUSES_S", (0.0, 0.0))
    table = {**plugins.TABLE, "mover": {"trouble": "tests.pilot.process.movers:Trouble"}}
    monkeypatch.setattr(plugins, "TABLE", table)
    with guarded() as spawner:
        rig = Rig(spawner, tmp_path)
        made = Site(rig, tmp_path)
        yield made
        made.movers.close()


def failing(site: Site, *inputs: InputFile) -> JobError:
    with pytest.raises(JobError) as raised:
        site.staged(*inputs)
    return raised.value


def test_inputs_come_under_their_names_and_nothing_else_is_left(site, tmp_path):
    adler32 = f"{zlib.adler32(b'12'):08x}"
    found = site.staged(site.input("a", b"1"), site.input("b", b"12", adler32=adler32, size=2))
    assert found == {"a": b"1", "b": b"12"}
    assert not list((tmp_path / "movers").glob("files-*"))


@pytest.mark.parametrize(
    ("word", "declared", "code"),
    [
        ("copy", {"size": 9}, Code.STAGE_IN_FAILED),
        ("copy", {"adler32": "00000009"}, Code.GET_ADLER_MISMATCH),
        ("lie", {}, Code.STAGE_IN_FAILED),
        ("link", {}, Code.STAGE_IN_FAILED),
        ("raise", {}, Code.STAGE_IN_FAILED),
        ("busy", {}, Code.STAGE_IN_FAILED),
    ],
)
def test_an_input_that_is_wrong_is_named_and_never_seen_by_the_payload(site, word, declared, code):
    error = failing(site, site.input("good", b"1"), site.input("bad", b"12", word, **declared))
    assert (error.code, error.field) == (code, "inputs[1]")
    assert not (site.work.directory / "bad").exists()


def test_a_url_outside_of_what_the_site_allows_is_refused_before_the_job_begins(site):
    bad = InputFile(name="a", url="x://elsewhere/copy:/etc/passwd")
    with pytest.raises(JobError) as raised:
        site.stage.allowed(attempt_of("true", inputs=(bad,)))
    assert (raised.value.code, raised.value.field) == (Code.STORAGE_FORBIDDEN, "inputs[0].url")


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("root://h//store/a", True),
        ("root://h//store/a?authz=x", True),
        ("root://h//store/../b", False),
        ("root://h//store/%2e%2e/b", False),
        ("root://h//store/a%2f..%2F..%2fb", False),
        ("root://h//store/.%2e/b", False),
        ("root://u@h//store/a", False),
        ("srm://h:8446/pnfs/ours/a", True),
        ("srm://h:8446/srm/managerv2?SFN=/pnfs/ours/a", True),
        ("srm://h:8446/srm/managerv2?SFN=/pnfs/theirs/a", False),
        ("srm://h:8446/srm/managerv2?SFN=/pnfs/ours/../theirs/a", False),
        ("srm://h:8446/pnfs/ours/a?SFN=/pnfs/theirs/a", False),
        ("srm://h:8446/pnfs/ours/a?x=1&SFN=/pnfs/theirs/a", False),
        ("srm://h:8446/pnfs/ours/a?sfn=/pnfs/theirs/a", False),
        ("s3://bucket/%2e%2e/other/a", False),
    ],
)
def test_no_url_leads_out_of_what_the_site_allows(url, fine):
    allow = ("root://h//store/", "srm://h:8446/srm/managerv2?SFN=/pnfs/ours/", "s3://bucket/")
    movers = Movers(Storage(allow=allow), bounds_of(Limits()))
    if fine:
        movers.allowed(Url.parse(url))
        return
    with pytest.raises(JobError) as raised:
        movers.allowed(Url.parse(url))
    assert raised.value.code is Code.STORAGE_FORBIDDEN


def test_a_site_without_rucio_says_what_it_lacks():
    with pytest.raises(JobError) as raised:
        Movers(Storage(), bounds_of(Limits())).allowed(Url.parse("rucio://user.ann:raw"))
    assert "`storage.rucio`" in raised.value.remedy


def test_what_the_site_lets_jobs_use_by_http_is_the_same_whoever_moves_it():
    storage = Storage(http_allow=("https://h/s/",), plugins={"davs": "gfal2"})
    movers = Movers(storage, bounds_of(Limits()))
    assert movers.serve("davs")
    movers.allowed(Url.parse("davs://h/s/a"))
    for url in ("davs://h/t/a", "davs://h/s/%2e%2e/t", "root://h/s/a", "dav://h/s/a"):
        with pytest.raises(JobError):
            movers.allowed(Url.parse(url))


def test_no_output_goes_among_the_files_of_a_scope_that_nobody_was_asked_for():
    storage = Storage(rse="HERE", rucio={"config": "/x"})
    stage = Stage(lambda scheme: None, "", bounds_of(Limits()), storage)  # type: ignore[arg-type,return-value]
    bad = OutputFile(name="a", url="rucio://user.bob:x?rse=HERE")
    with pytest.raises(JobError) as raised:
        stage.allowed(attempt_of("true", outputs=(bad,)))
    assert (raised.value.code, raised.value.field) == (Code.STORAGE_FORBIDDEN, "outputs[0].url")


def test_inputs_larger_than_the_node_are_refused_before_anything_moves(site):
    error = failing(site, site.input("a", b"1", size=1 << 60))
    assert error.code is Code.NO_LOCAL_SPACE


def test_a_directory_becomes_a_directory_of_the_job(site):
    (site.store / "set").mkdir()
    (site.store / "set/one").write_bytes(b"1")
    site.stage.stage_in(
        attempt_of("true", inputs=(InputFile(name="d", url=f"x://h/copy:{site.store}/set/"),)),
        site.work,
    )
    assert (site.work.directory / "d/one").read_bytes() == b"1"


def outputs_of(site: Site, *words: str) -> tuple[OutputFile, ...]:
    outputs = []
    for number, word in enumerate(words):
        (site.work.directory / f"o{number}").write_bytes(b"x" * number)
        outputs.append(OutputFile(name=f"o{number}", url=f"x://h/{word}:{site.store}"))
    return tuple(outputs)


def stored(site: Site, *words: str) -> Any:
    attempt = attempt_of("true", outputs=outputs_of(site, *words))
    return site.stage.stage_out(attempt, site.work)


def test_outputs_are_stored_in_their_order_with_their_sums(site):
    files = stored(site, "copy", "copy", "copy")
    assert [(file.name, file.size) for file in files] == [("o0", 0), ("o1", 1), ("o2", 2)]
    assert files[2].adler32 == f"{zlib.adler32(b'xx'):08x}"
    assert sorted(len(path.read_bytes()) for path in site.store.iterdir()) == [0, 1, 2]


@pytest.mark.parametrize("word", ["raise", "busy", "lie", "die"])
def test_all_outputs_arrive_or_none(site, word):
    with pytest.raises(JobError) as raised:
        stored(site, "copy", word)
    assert raised.value.code is Code.STAGE_OUT_FAILED or word == "busy"
    assert raised.value.field == "outputs[1].name"
    assert list(site.store.iterdir()) == []


def test_what_a_failed_upload_left_is_removed_before_the_next_try(site):
    (file,) = stored(site, "cut")
    assert (site.store / "1.1.o0").read_bytes() == b""
    assert file.size == 0


def test_what_cannot_be_removed_now_is_owed_with_the_report(site):
    attempt = attempt_of("true", outputs=outputs_of(site, "kept"))
    with pytest.raises(JobError):
        site.stage.stage_out(attempt, site.work)
    assert attempt.leftovers == [f"x://h/kept:{site.store}/1.1.o0"]


def test_a_removal_that_breaks_off_keeps_what_it_has_done(site, monkeypatch):
    monkeypatch.setattr(movers, "DELETED_AT_ONCE", 2)
    urls = [f"x://h/copy:{site.store}/{nr}" for nr in range(3)]
    for nr in range(3):
        (site.store / f"{nr}").touch()
    assert site.movers.delete([*urls, "x://h/die:"]) == [urls[2], "x://h/die:"]
    assert [path.name for path in site.store.iterdir()] == ["2"]
    monkeypatch.setattr(movers, "DELETE_S", -1.0)
    assert site.movers.delete(urls[2:]) == urls[2:]


def test_an_output_that_its_place_does_not_take_goes_to_the_alternative(site, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    site.stage.destinations.alternative = f"x://h/copy:{other}"
    (file,) = stored(site, "busy")
    assert file.url.startswith(f"x://h/copy:{other}/")
    assert [path.read_bytes() for path in other.iterdir()] == [b""]


def test_an_output_of_rucio_needs_the_sites_name_there(site):
    output = OutputFile(name="o", scope="user.a")
    with pytest.raises(JobError, match=r"storage\.rse|no storage there"):
        site.stage.destinations.physical(attempt_of(), output)
    site.stage.destinations.rse = "RSE1"
    of_now = site.stage.destinations.physical(attempt_of(of=(7, 1), mark="abcdefgh"), output)
    of_an_older_dispatcher = site.stage.destinations.physical(attempt_of(of=(7, 1)), output)
    assert of_now.text == "rucio://user.a:abcdefgh.7.1.o?rse=RSE1"
    assert of_an_older_dispatcher.text == "rucio://user.a:7.1.o?rse=RSE1"


def test_a_payload_that_reads_directly_gets_the_url_where_the_site_lets_it(site):
    file = InputFile(name="a", url=f"x://h/copy:{site.store}/a", direct=True)
    with pytest.raises(JobError, match="directly"):
        site.stage.allowed(attempt_of("true", inputs=(file,)))
    site.stage._direct_read = True
    site.stage.allowed(attempt_of("true", inputs=(file,)))
    assert site.staged(file) == {"a": f"{file.url}\n".encode()}


def delegated(name: str, secret: str, kind: str = "token") -> m.Credential:
    return m.Credential(name=name, kind=m.CredentialKind(kind), secret=secret)


def shown(directory: Path) -> list[str]:
    calls = (directory / "marks/calls").read_text().splitlines()
    return [call.removeprefix("shows ") for call in calls if call.startswith("shows ")]


def test_a_jobs_files_are_moved_with_its_users_credentials_and_no_others_are(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marks").mkdir(exist_ok=True)
    attempt = attempt_of("true", inputs=(site.input("a", b"1"),))
    attempt.credentials = (delegated("mine", "TOKEN"), delegated("p", "PROXY", "proxy"))
    site.stage.stage_in(attempt, site.work)
    assert shown(tmp_path) == ["TOKEN", "PROXY"]
    site.stage.stage_in(attempt_of("true", inputs=(site.input("b", b"2"),)), site.work)
    assert shown(tmp_path) == ["TOKEN", "PROXY"]  # the site has none


def test_a_token_that_is_looked_for_is_told_to_the_sites_movers_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_discovery, "STARTED_WITH", {"BEARER_TOKEN": "the site's"})
    site.storage.options["trouble"]["token_file"] = token_discovery.DISCOVERED
    for name, given in (("a", ()), ("b", (delegated("mine", "TOKEN"),))):
        attempt = attempt_of("true", inputs=(site.input(name, b"1"),))
        attempt.credentials = given
        site.stage.stage_in(attempt, site.work)
    calls = (tmp_path / "marks/calls").read_text().splitlines()
    assert [one for one in calls if one.startswith(("shows", "has"))] == [
        "shows the site's", "has BEARER_TOKEN", "shows TOKEN",
    ]  # fmt: skip


def test_movers_get_no_variable_where_the_site_names_its_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_discovery, "STARTED_WITH", {"BEARER_TOKEN": "theirs"})
    site.staged(site.input("a", b"1"))
    assert (tmp_path / "marks/calls").read_text().splitlines() == ["get 0"]


def test_nothing_of_a_users_credentials_is_left_when_its_files_have_been_moved(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marks").mkdir(exist_ok=True)
    attempt = attempt_of("true", inputs=(site.input("a", b"1"), site.input("z", b"", "raise")))
    attempt.credentials = (delegated("mine", "s3cret"),)
    with pytest.raises(JobError):
        site.stage.stage_in(attempt, site.work)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "calls"]
    assert not [path for path in left if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (["token"], {"token_file", "proxy"}),
        (["proxy", "keys"], {"token_file", "proxy", "keys_file"}),
        (["keys"], {"keys_file"}),
    ],
)
def test_a_user_of_the_grid_has_none_of_the_sites_credentials_there(tmp_path, kinds, named) -> None:
    given = tuple(delegated(kind, f"the {kind}", kind) for kind in kinds)
    with delegated_pools.written(given, tmp_path / "c") as files:
        assert set(files.named) == named
        texts = [Path(path).read_text("ascii") for path in files.named.values() if path]
    assert sorted(texts) == sorted(one.secret for one in given)


def test_movers_read_a_users_credential_where_it_was_once_it_is_renewed(tmp_path) -> None:
    old, second = delegated("a", "old", "token"), delegated("b", "another", "token")
    with delegated_pools.written((old, second), tmp_path / "c") as files:
        path = Path(files.named["token_file"])
        assert path.read_text("ascii") == "old"
        files.renew((delegated("a", "new", "token"), second))
        assert path.read_text("ascii") == "new"
        assert [one.name for one in (tmp_path / "c").iterdir()] == [path.name]
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_a_mover_gets_what_its_options_know() -> None:
    named = {"token_file": "/t", "proxy": "", "keys_file": "/k"}
    grid = plugins.with_credentials(Gfal2.Options, {"ca": "/ca", "proxy": "/site"}, named)
    assert grid == {"ca": "/ca", "proxy": "", "token_file": "/t"}
    s3 = {"endpoint": "e", "keys_file": "/site"}
    assert plugins.with_credentials(S3.Options, s3, named)["keys_file"] == "/k"
    assert plugins.with_credentials(S3.Options, s3, {"proxy": "/p"}) == s3
    assert plugins.with_credentials(Rucio.Options, {}, named) == {"credentials": named}
    assert plugins.with_credentials(Rucio.Options, {}, {}) == {}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Found(name="a", url="x://elsewhere/copy:/a"), Code.STORAGE_FORBIDDEN),
        (Found(name="a", url="x://h/../copy:/a"), Code.STORAGE_FORBIDDEN),
        (Found(name="a", url="no URL"), Code.STAGE_IN_FAILED),
        (Found(name="a", url="x://h/copy:/a", size=-1), Code.STAGE_IN_FAILED),
    ],
)
def test_what_a_server_lists_is_held_to_the_sites_rules(site, monkeypatch, found, code):
    pool = SimpleNamespace(expand=lambda url, watch: [found], close=lambda: None)
    monkeypatch.setattr(site.movers, "_pool", lambda scheme: pool)
    error = failing(site, InputFile(name="set", url="x://h/list:/"))
    assert (error.code, error.field) == (code, "inputs[0]")


def test_a_single_file_of_a_size_below_nothing_makes_no_room_for_others(site, monkeypatch):
    url = "x://h/copy:/a/*"
    pool = SimpleNamespace(
        expand=lambda url, watch: [Found(name="a", url=url, size=-(1 << 62))], close=lambda: None
    )
    monkeypatch.setattr(site.movers, "_pool", lambda scheme: pool)
    error = failing(site, InputFile(name="a", url=url))
    assert (error.code, error.field) == (Code.STAGE_IN_FAILED, "inputs[0]")
    assert error.remedy


def test_a_list_with_one_name_twice_is_refused(site, monkeypatch):
    twice = [Found(name="a", url="x://h/copy:/a"), Found(name="a", url="x://h/copy:/b")]
    pool = SimpleNamespace(expand=lambda url, watch: twice, close=lambda: None)
    monkeypatch.setattr(site.movers, "_pool", lambda scheme: pool)
    error = failing(site, InputFile(name="set", url="x://h/list:/"))
    assert (error.code, error.field) == (Code.BAD_FILE_NAME, "inputs[0]")


def listing(site: Site, monkeypatch: pytest.MonkeyPatch, **sizes: int | None) -> InputFile:
    """An input that is listed as files of these sizes, whose contents are three bytes each."""
    found = []
    for name, size in sizes.items():
        (site.store / name).write_bytes(b"abc")
        found.append(Found(name=name, url=f"x://h/copy:{site.store}/{name}", size=size))
    monkeypatch.setattr(mover_pool.MoverPool, "expand", lambda *_: found)
    return InputFile(name="set", url="x://h/list:/")


def test_a_listed_file_is_held_to_its_size_as_a_declared_one(site, monkeypatch):
    error = failing(site, listing(site, monkeypatch, a=3, b=2))
    assert error.code is Code.STAGE_IN_FAILED
    assert "declared" in error.message


@pytest.mark.parametrize(("limit", "sizes"), [(5, (3, 3)), (5, (3, None)), (2, (None, None))])
def test_the_sites_limit_on_inputs_holds_for_what_is_listed(site, monkeypatch, limit, sizes):
    site.stage._bounds = replace(site.stage._bounds, inputs_bytes=limit)
    error = failing(site, listing(site, monkeypatch, a=sizes[0], b=sizes[1]))
    assert error.code is Code.INPUTS_TOO_LARGE


def test_a_data_set_has_no_more_files_than_a_job_may(site, monkeypatch):
    monkeypatch.setattr("ailurus.protocol.trees.MOST_FILES", 2)
    error = failing(site, listing(site, monkeypatch, a=3, b=3, c=3))
    assert (error.code, error.field) == (Code.INPUTS_TOO_LARGE, "inputs")


def test_a_directory_without_files_is_no_input(site, monkeypatch):
    assert failing(site, listing(site, monkeypatch)).code is Code.NO_SUCH_FILE


def test_a_data_set_is_no_archive(site, monkeypatch):
    set_ = replace(listing(site, monkeypatch, a=3), unpack=True)
    assert "data set" in failing(site, set_).message
