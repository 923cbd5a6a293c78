"""What servers of WebDAV list, and what hostile ones say instead of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from xml.sax.saxutils import escape

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import MOST_FOUND, JobError
from plugins.data import xml_records
from plugins.data.http_listing import MOST_DEEP, listed
from plugins.data.xml_records import BadXml, Records
from tests.plugins.http_stores import Store, allowing, nothing, serving

TOP = Url.parse("davs://host:1443/store/in/")


def entry(href: str, size: int | None = None, *, odd: str = "") -> str:
    kind = "<D:resourcetype><D:collection/></D:resourcetype>" if size is None else ""
    length = f"<D:getcontentlength>{4096 if size is None else size}</D:getcontentlength>"
    return (
        f"<D:response><D:href>{escape(href)}</D:href><D:propstat><D:prop>{length}{kind}{odd}"
        "</D:prop></D:propstat></D:response>"
    )


def answer(*entries: str) -> bytes:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">'
    return f"{head}{''.join(entries)}</D:multistatus>".encode()


def found(*entries: str, url: Url = TOP) -> dict[str, int | None]:
    own = entry("/store/in/")
    return {one.name: one.size for one in listed(url, lambda _: [answer(own, *entries)])}


def failure(*entries: str) -> JobError:
    with pytest.raises(JobError) as raised:
        found(*entries)
    return raised.value


def test_a_directory_is_listed_with_all_beneath_it_and_a_glob_without():
    tree = {
        "/store/in/": [entry("/store/in/a.root", 5), entry("https://host/store/in/sub/")],
        "/store/in/sub/": [entry("/store/in/sub/b%20%C3%BC.root", 7), entry("/store/in/sub/deep")],
        "/store/in/sub/deep/": [],
    }

    def ask(url: Url) -> Iterable[bytes]:
        return [answer(entry(url.path), *tree[url.path])]

    everything = listed(TOP, ask)
    assert {one.name: one.size for one in everything} == {"a.root": 5, "sub/b ü.root": 7}
    assert everything[1].url == "davs://host:1443/store/in/sub/b%20%C3%BC.root"
    glob = Url.parse("davs://host:1443/store/in/*.root")
    assert [one.name for one in listed(glob, ask)] == ["a.root"]


def test_names_that_a_server_writes_as_they_are_are_taken_so():
    raw = [entry("/store/in/a b%41", 1), entry("/store/in/ü", 2)]
    assert found(*raw) == {"a b%41": 1, "ü": 2}
    assert found(entry("/store/in/a%41", 1)) == {"aA": 1}


@pytest.mark.parametrize(
    "href",
    ["/etc/passwd", "/store/in/sub/x", "/store/in/..%2Fx", "/store/in/x%00", "/store/other", ""],
)
def test_a_file_that_is_not_in_the_directory_fails_the_job(href):
    assert failure(entry(href, 1)).code is Code.STAGE_IN_FAILED


def test_a_file_in_place_of_the_directory_is_said():
    with pytest.raises(JobError, match="is no directory"):
        listed(TOP, lambda _: [answer(entry("/store/in", 5))])


def test_sizes_that_are_none_are_unknown():
    sizes = ["", "-1", "1e9", "9" * 19, " 12 "]
    entries = [entry(f"/store/in/{nr}", 0).replace(">0<", f">{size}<") for nr, size in
               enumerate(sizes)]  # fmt: skip
    assert list(found(*entries).values()) == [None, None, None, None, 12]


def test_a_directory_in_itself_ends():
    asked: list[str] = []

    def ask(url: Url) -> Iterable[bytes]:
        asked.append(url.path)
        return [answer(entry(url.path), entry(f"{url.path}in/"))]

    with pytest.raises(JobError, match="directories in each other"):
        listed(TOP, ask)
    assert len(asked) == MOST_DEEP


def test_a_tree_of_directories_alone_ends():
    def ask(url: Url) -> Iterable[bytes]:
        return [answer(entry(url.path), *(entry(f"{url.path}{nr}/") for nr in range(200)))]

    with pytest.raises(JobError) as raised:
        listed(TOP, ask)
    assert raised.value.code is Code.INPUTS_TOO_LARGE


def test_a_list_that_never_ends_is_read_no_further():
    read = 0

    def endless(_: Url) -> Iterable[bytes]:
        nonlocal read
        yield answer(entry("/store/in/"))[:-16]
        while True:
            read += 1
            yield entry(f"/store/in/{read}", 1).encode()

    with pytest.raises(JobError) as raised:
        listed(TOP, endless)
    assert raised.value.code is Code.INPUTS_TOO_LARGE
    assert read == MOST_FOUND + 1


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(12))


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (f"<!DOCTYPE a [{LAUGHS}]><a>&l11;</a>", "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<a>&passwd;</a>", "no XML"),
        ("<a>" * 40, "deep"),
        ("<html><body>Log in</body>", "no XML"),
        ("", "no XML"),
        ("<response><href>" + "x" * 20_000, "longer"),
        ("<a>\0</a>", "no XML"),
        ("<a" + " b='c'" * 10, "no XML"),
    ],
)
def test_hostile_answers_are_refused(hostile, why):
    with pytest.raises(BadXml, match=why):
        list(Records("response", ["href"]).of([hostile.encode()]))
    with pytest.raises(JobError, match=why):
        listed(TOP, lambda _: [hostile.encode()])


def test_an_answer_has_a_limit(monkeypatch):
    monkeypatch.setattr(xml_records, "MOST_BYTES", 1 << 20)
    with pytest.raises(BadXml, match="more than 1 MiB"):
        list(
            Records("response", ["href"]).of(
                itertools.chain([b"<a>"], itertools.repeat(b" " * 1000))
            )
        )


class Listing(Store):
    status = 207

    def do_PROPFIND(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        assert b"getcontentlength" in asked
        assert self.headers["Depth"] == "1"
        body = answer(entry("/ok/"), entry("/ok/a.root", 3))
        self.send_response(self.status)
        self.send_header("Location", "/ok/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, Code.NO_SUCH_FILE),
        (405, Code.NO_PROTOCOL),
        (200, Code.NO_PROTOCOL),
        (307, Code.STAGE_IN_FAILED),
        (503, Code.STAGE_IN_FAILED),
    ],
)
def test_a_server_that_lists_nothing_is_said(status, code):
    with serving(Listing, status=status) as store:
        place = store.url.replace("http:", "dav:")
        with allowing(f"{place}/ok/") as transfer, pytest.raises(JobError) as raised:
            transfer.listed(Url.parse(f"{place}/ok/"), nothing)
    assert raised.value.code is code


def test_a_directory_comes_by_one_request_within_what_is_allowed():
    with serving(Listing) as store:
        place = store.url.replace("http:", "dav:")
        with allowing(f"{place}/ok/") as transfer:
            (one,) = transfer.listed(Url.parse(f"{place}/ok/*.root"), nothing)
            with pytest.raises(JobError) as raised:
                transfer.listed(Url.parse(f"{place}/no/"), nothing)
    assert (one.name, one.url, one.size) == ("a.root", f"{place}/ok/a.root", 3)
    assert raised.value.code is Code.STORAGE_FORBIDDEN
