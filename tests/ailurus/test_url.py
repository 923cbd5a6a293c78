"""URLs are joined and named by their parts, and shown without what they hold of secrets."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus import logs
from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.shown import shown
from ailurus.protocol.url import LONGEST, LONGEST_DIRECTORY, Url


@pytest.mark.field("L1")
@pytest.mark.parametrize(
    ("directory", "file"),
    [
        ("http://h/dir", "http://h/dir/57.1.a"),
        ("http://h/dir/", "http://h/dir/57.1.a"),
        ("http://h/dir?authz=T", "http://h/dir/57.1.a?authz=T"),
        ("http://h/dir/?a=/b/&c=d", "http://h/dir/57.1.a?a=/b/&c=d"),
        ("http://h/dir?", "http://h/dir/57.1.a?"),
        ("http://h/dir#frag", "http://h/dir/57.1.a"),
        ("http://h/dir?a=b#/frag", "http://h/dir/57.1.a?a=b"),
        ("http://h", "http://h/57.1.a"),
        ("http://h?authz=T", "http://h/57.1.a?authz=T"),
        ("http://[2001:db8::1]:8080/d", "http://[2001:db8::1]:8080/d/57.1.a"),
        ("http://u:p@h:1/d", "http://u:p@h:1/d/57.1.a"),
        ("root://h//store/d", "root://h//store/d/57.1.a"),
        ("root://h//", "root://h//57.1.a"),
        ("file:///a%20b", "file:///a%20b/57.1.a"),
    ],
)
def test_a_name_goes_onto_the_path(directory: str, file: str) -> None:
    assert Url.parse(directory).joined("57.1.a").text == file


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("50%", "50%25"),
        ("é", "%C3%A9"),
        ("x:1@y+z=2", "x:1@y+z=2"),
    ],
)
def test_a_name_stays_one_name(name: str, written: str) -> None:
    file = Url.parse("http://h/d?q=1").joined(name)
    assert file.text == f"http://h/d/{written}?q=1"
    assert file.name == name


@pytest.mark.field("L1")
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/d/x.root?sig=a/b", "x.root"),
        ("http://h/d/x.root#a/b", "x.root"),
        ("http://h/d/a%20b.root", "a b.root"),
        ("http://h/d/", ""),
        ("http://h", ""),
        ("http://h?x=/y", ""),
        ("http://h/d/..", ".."),
        ("file:///d/%C3%A9", "é"),
        ("file:///d/%E9", "\ufffd"),
    ],
)
def test_a_file_is_named_by_its_path(url: str, name: str) -> None:
    assert Url.parse(url).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "//h/x",
        "://h/x",
        "file:relative",
        "1http://h/x",
        "http://[::1/x",
        "http://[x]/x",
        "http://h:port/x",
        "http://h:99999/x",
        "http://h:1:2/x",
        "http://h\\x/y",
        "http://a b/x",
        "http://h/a b",
        "http://h/\n",
        "http://h/x\0",
        "http://h/\ud800",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(AilurusError):
        Url.parse(text)


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(AilurusError) as caught:
        Url.parse("http://alice:hunter2@[::1/x?authz=s3cret")
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("http://pool:20001/x?door=1", "http://pool:20001/x?door=1"),
        ("/other", "http://h:1/other"),
        ("next", "http://h:1/d/next"),
        ("../up", "http://h:1/up"),
        ("//pool/x", "http://pool/x"),
        ("/a b", "http://h:1/a%20b"),
    ],
)
def test_a_redirect_takes_none_of_our_query_along(location: str, leads: str) -> None:
    assert Url.parse("http://h:1/d/x?authz=T").redirected(location).text == leads


def test_the_fragment_is_not_sent() -> None:
    assert Url.parse("http://h/x?a=b#c").sent == "http://h/x?a=b"


def test_an_origin_has_its_usual_port() -> None:
    assert Url.parse("HTTPS://Host/x").origin == Url.parse("https://host:443/y").origin
    assert Url.parse("http://host").origin != Url.parse("https://host").origin


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("http://u:p@h:1/x?authz=T#f", "http://h:1/x?…"),
        ("http://h/x#token=T", "http://h/x"),
        ("file:///plain/path", "file:///plain/path"),
        ("see 'http://u:p@h/x?sig=a'b', (https://h/y?z).", "see 'http://h/x?…', (https://h/y?…)."),
        (
            "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /d?authz=T (Caused",
            "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /d?… (Caused",
        ),
        ("http://h/x,http://u:p@g/y", "http://h/x,http://g/y"),
        ("postgresql://u:p@h/db", "postgresql://h/db"),
        ("really? yes #1 a@b", "really? yes #1 a@b"),
    ],
)
def test_people_see_no_secrets(text: str, seen: str) -> None:
    assert shown(text) == seen


_word = st.text("abcXYZ019-._~!$&'()*+,;=", max_size=12)
_escaped = st.lists(st.sampled_from(["a", "%20", "%C3%A9", "é", "%", ":", "@", "+"]), max_size=4)
_segment = st.one_of(_word, _escaped.map("".join))
_hosts = st.sampled_from(["h", "h.example.org", "H", "[::1]", "[2001:db8::1]", "", "1.2.3.4"])
_secret = _word.map(lambda word: f"S3CRET{word}")


@st.composite
def urls(draw, *, secrets: bool = False) -> str:
    inner = _secret if secrets else _word
    text = draw(st.sampled_from(["http", "https", "file", "root", "davs", "s3"])) + "://"
    text += draw(
        st.one_of(st.just(""), inner.map(lambda u: f"{u}@"), inner.map(lambda u: f"u:{u}@"))
    )
    text += draw(_hosts) + draw(st.sampled_from(["", ":1", ":8443"]))
    text += "".join(f"/{segment}" for segment in draw(st.lists(_segment, max_size=4)))
    text += draw(
        st.one_of(st.just(""), inner.map(lambda q: f"?{q}"), inner.map(lambda q: f"?k={q}/{q}"))
    )
    return text + draw(st.one_of(st.just(""), inner.map(lambda f: f"#{f}")))


@given(urls())
def test_what_is_parsed_is_what_was_written(text: str) -> None:
    url = Url.parse(text)
    assert url.text == text
    assert Url.parse(url.sent).fragment is None


@given(urls(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_joined_name_is_the_name_and_changes_nothing_else(text: str, name: str) -> None:
    directory = Url.parse(text)
    file = Url.parse(directory.joined(name).text)
    assert file.name == name
    assert (file.origin, file.query, file.userinfo) == (
        directory.origin,
        directory.query,
        directory.userinfo,
    )
    assert file.path.startswith(directory.path)


@given(urls(secrets=True), st.sampled_from(["{}", "see {}.", "'{}'", "({}) and {}", "{}: {}"]))
def test_no_secret_is_shown_wherever_it_stands(text: str, around: str) -> None:
    assert "S3CRET" not in shown(around.format(text, text))
    assert "S3CRET" not in f"{Url.parse(text)} {Url.parse(text)!r}"


@given(st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    shown(text)
    try:
        url = Url.parse(text)
    except AilurusError:
        return
    assert Url.parse(url.text) == url


@given(urls(), st.one_of(urls(), st.text(), st.just("//[::1/x")))
def test_any_location_leads_somewhere_or_is_refused(text: str, location: str) -> None:
    with suppress(AilurusError):
        Url.parse(text).redirected(location)


file_names = st.binary(min_size=1).filter(lambda name: not {b"/"[0], 0} & {*name})


@given(st.lists(file_names, min_size=1, max_size=5))
def test_a_path_comes_back_from_its_url(names: list[bytes]) -> None:
    path = b"/" + b"/".join(names)
    assert Url.parse(Url.of_path(path.decode("utf-8", "surrogateescape")).text).segments == names


def test_half_a_character_has_no_url() -> None:
    with pytest.raises(AilurusError):
        Url.of_path("/\ud800")


@pytest.mark.field("A3")
def test_a_file_in_the_longest_directory_is_not_too_long() -> None:
    directory = "http://h/".ljust(LONGEST_DIRECTORY, "d")
    name = f"{2**63 - 1}.{10**6}.{'n' * 200}"
    assert len(Url.parse(directory).joined(name).text) <= LONGEST


@pytest.mark.parametrize(
    "text",
    ["a" * 50_000 + "?", "/a-" * 20_000 + "?", "http://" * 9_000 + "?", "?" + "." * 50_000 + "a",
     "://" * 20_000 + "@", "x:///?" + ".)" * 20_000],
)  # fmt: skip
def test_whoever_wrote_a_text_it_is_read_quickly(text: str) -> None:
    began = time.process_time()
    shown(text)
    assert time.process_time() - began < 0.5


def test_every_error_and_every_line_of_a_log_hides_them(tmp_path: Path) -> None:
    url = "http://alice:hunter2@h/d?authz=S3CRET"
    error = AilurusError(f"{url} does not answer", remedy=f"see {url}")
    logs.configure(tmp_path / "log")
    try:
        raise ValueError(url)
    except ValueError as bug:
        Log("test").error("failed", trace=True, url=url, error=error, bug=bug, n=1)
    finally:
        logs.configure(None)
    for text in (str(error), (tmp_path / "log").read_text()):
        assert "S3CRET" not in text
        assert "hunter2" not in text
        assert "http://h/d?" in text
