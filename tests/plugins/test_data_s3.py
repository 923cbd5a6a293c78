"""What an S3 gateway says, in our words, and the documents that it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import JobError, NotMoved, ToGet, ToPut
from plugins.data import s3
from plugins.data.moving import Failure
from plugins.data.s3 import S3, completion, kind
from plugins.data.s3_keys import keys

KEYS = "[default]\naws_access_key_id = AK\naws_secret_access_key = s%cret\n"


@pytest.mark.parametrize(
    ("status", "code", "meant"),
    [
        (404, "NoSuchKey", Failure.MISSING),
        (403, "AccessDenied", Failure.DENIED),
        (403, "SignatureDoesNotMatch", Failure.UNKNOWN_USER),
        (400, "ExpiredToken", Failure.UNKNOWN_USER),
        (403, "QuotaExceeded", Failure.FULL),
        (503, "SlowDown", Failure.BUSY),
        (412, "", Failure.EXISTS),
        (403, "", Failure.DENIED),
        (500, "InternalError", Failure.FAILED),
    ],
)
def test_s3s_own_code_says_more_than_the_status(status, code, meant):
    assert kind(status, f"<Error><Code>{code}</Code></Error>".encode()) is meant


def test_parts_are_put_together_in_their_order():
    assert completion(['"a"', '"b"']) == (
        b"<CompleteMultipartUpload>"
        b'<Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part>'
        b'<Part><PartNumber>2</PartNumber><ETag>"b"</ETag></Part>'
        b"</CompleteMultipartUpload>"
    )


def test_keys_are_read_from_a_file_of_ours_alone(tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEYS)
    path.chmod(0o600)
    assert keys(str(path)) == ("AK", "s%cret")
    path.chmod(0o640)
    with pytest.raises(JobError, match="others than its owner") as caught:
        keys(str(path))
    assert caught.value.remedy == f"chmod 600 {path}"


@pytest.mark.parametrize("text", ["", "[default]\naws_access_key_id = AK\n", "secret"])
def test_a_file_of_keys_that_cannot_be_read_shows_nothing_of_itself(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(JobError, match="cannot be read") as caught:
        keys(str(path))
    assert "secret:" not in str(caught.value)
    assert caught.value.code is Code.SERVICE_UNAVAILABLE


def test_a_server_that_is_away_is_told_for_each_file(tmp_path):
    told: list[object] = []
    mover = S3(S3.Options(endpoint="http://127.0.0.1:1"))
    mover.get([ToGet(key=7, url="s3://bucket/f", path=str(tmp_path / "f"))], told.append)
    end = told[-1]
    assert isinstance(end, NotMoved)
    assert (end.key, end.code, end.transient) == (7, Code.SERVICE_UNAVAILABLE, True)
    assert not (tmp_path / "f").exists()


class Talking(BaseHTTPRequestHandler):
    """It answers with words that have no end."""

    status = 500

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"x" * 100_000)

    def do_DELETE(self) -> None:
        self.do_GET()


@pytest.mark.parametrize("status", [200, 500])
def test_words_without_an_end_are_not_kept(tmp_path, monkeypatch, status):
    monkeypatch.setattr(s3, "MOST_WORDS", 1_000_000)
    monkeypatch.setattr(Talking, "status", status)
    with ThreadingHTTPServer(("127.0.0.1", 0), Talking) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mover = S3(S3.Options(endpoint=f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(JobError):
            mover.expand("s3://bucket/all/")
        (left,) = mover.delete(["s3://bucket/a"])
        assert left == "s3://bucket/a"
        server.shutdown()


class Partial(BaseHTTPRequestHandler):
    """It answers with success, and yet not with a whole object."""

    status, length = 200, "4"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.length:
            self.send_header("Content-Length", self.length)
        self.end_headers()
        if self.command == "GET" and self.status != 204:
            self.wfile.write(b"part")
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


@contextmanager
def gateway(answers: type[BaseHTTPRequestHandler]) -> Iterator[S3]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield S3(S3.Options(endpoint=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "length"), [(200, ""), (202, "4"), (204, ""), (206, "4"), (226, "4")]
)
def test_what_is_no_whole_object_is_not_taken_for_one(tmp_path, monkeypatch, status, length):
    monkeypatch.setattr(Partial, "status", status)
    monkeypatch.setattr(Partial, "length", length)
    told: list[object] = []
    with gateway(Partial) as mover:
        mover.get([ToGet(key=7, url="s3://bucket/f", path=str(tmp_path / "f"))], told.append)
    end = told[-1]
    assert isinstance(end, NotMoved), end
    assert (end.code, end.transient) == (Code.STAGE_IN_FAILED, True)
    assert end.remedy
    assert not (tmp_path / "f").exists()


def test_an_upload_that_a_gateway_has_yet_to_store_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Partial, "do_HEAD", lambda self: self.send_error(404))
    monkeypatch.setattr(Partial, "status", 202)
    (tmp_path / "f").write_bytes(b"output")
    told: list[object] = []
    order = ToPut(key=7, url="s3://bucket/f", path=str(tmp_path / "f"), size=6)
    with gateway(Partial) as mover:
        mover.put([order], told.append)
    assert isinstance(told[-1], NotMoved), told[-1]


@pytest.mark.parametrize("length", ["-5", "five", ""])
def test_an_object_without_a_size_is_refused(monkeypatch, length):
    monkeypatch.setattr(Partial, "length", length)
    with gateway(Partial) as mover, pytest.raises(JobError) as raised:
        mover.expand("s3://bucket/f")
    assert raised.value.remedy


def test_a_url_without_a_key_is_told_as_a_bad_name(tmp_path):
    told: list[object] = []
    mover = S3(S3.Options(endpoint="http://127.0.0.1:1"))
    mover.get([ToGet(key=7, url="s3://bucket", path=str(tmp_path / "f"))], told.append)
    assert isinstance(told[-1], NotMoved)
    assert "no bucket or no key" in told[-1].message
    assert told[-1].code is Code.STAGE_IN_FAILED


def test_keys_that_were_renewed_sign_the_next_batch(tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEYS)
    path.chmod(0o600)
    mover = S3(S3.Options(endpoint="http://127.0.0.1:1", keys_file=str(path)))
    path.chmod(0o644)
    with pytest.raises(JobError, match="others than its owner"):
        mover.get([], print)


class Listing(BaseHTTPRequestHandler):
    """It answers each list with the same words."""

    words = b""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.words)))
        self.end_headers()
        self.wfile.write(self.words)


def listed(words: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    monkeypatch.setattr(Listing, "words", words.encode())
    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            mover = S3(S3.Options(endpoint=f"http://127.0.0.1:{server.server_port}"))
            return [(one.name, one.size) for one in mover.expand("s3://bucket/all/")]
        finally:
            server.shutdown()


ENTRY = "<Contents><Key>all/{}</Key><Size>{}</Size></Contents>"


@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_a_list_names_objects_and_their_sizes(space, monkeypatch):
    inside = ENTRY.format("a", 1) + ENTRY.format("sub/b", 22) + ENTRY.format("", 0)
    page = f"<ListBucketResult{space}><KeyCount>3</KeyCount>{inside}</ListBucketResult>"
    assert listed(page, monkeypatch) == [("a", 1), ("sub/b", 22)]


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("<a>" * 40 + "</a>" * 40, "more than 32 deep"),
        (ENTRY.format("a", "1e9"), "without its size"),
        ("<Contents><Key>all/a</Key></Contents>", "without its size"),
        ("<NextContinuationToken>again</NextContinuationToken>", "has no end"),
        ("<Contents>", "it is no XML"),
    ],
)
def test_a_list_that_is_none_is_refused(inside, why, monkeypatch):
    with pytest.raises(JobError, match=why):
        listed(f"<ListBucketResult>{inside}</ListBucketResult>", monkeypatch)


def test_a_list_with_entities_is_refused_before_they_grow(monkeypatch):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa">]><ListBucketResult>&a;</ListBucketResult>'
    with pytest.raises(JobError, match="declares a document type"):
        listed(bomb, monkeypatch)
