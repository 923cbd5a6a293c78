"""As whom the pilot moves a job's files itself."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from ailurus.protocol import messages as m
from ailurus.protocol.url import Url
from pilot.clock import SYSTEM
from pilot.files.in_process import InProcess
from tests.pilot.attempts import attempt_of

HTTPS, FILE = Url.parse("https://h/x"), Url.parse("file:///x")


class Web:
    """A transfer that knows users."""

    def __init__(self, *shows: str) -> None:
        self.shows = shows

    def as_user(self, token: str, proxy: str) -> Web:
        return Web(token, proxy)


def moving() -> InProcess:
    made: Any = {"https": Web(), "file": object()}
    bounds: Any = None
    return InProcess(made.__getitem__, bounds, 4, SYSTEM)


def given(**secrets: str) -> tuple[m.Credential, ...]:
    return tuple(
        m.Credential(name=kind, kind=m.CredentialKind(kind), secret=secret)
        for kind, secret in secrets.items()
    )


def test_all_files_of_a_job_go_by_the_same_connections_until_its_credentials_are_renewed() -> None:
    own, attempt = moving(), attempt_of("true")
    attempt.credentials = given(proxy="p", keys="k")
    first: Any = own.transfer(attempt, HTTPS)
    assert first.shows == ("", "p")
    assert own.transfer(attempt, HTTPS) is first
    attempt.credentials = given(token="t", proxy="p")
    renewed: Any = own.transfer(attempt, HTTPS)
    assert renewed.shows == ("t", "p")


def test_jobs_share_nothing_that_knows_a_user() -> None:
    own, one, other = moving(), attempt_of("true"), attempt_of("true")
    one.credentials = other.credentials = given(proxy="p")
    assert own.transfer(one, HTTPS) is not own.transfer(other, HTTPS)


def test_what_a_user_did_not_say_and_what_knows_no_users_goes_as_the_site() -> None:
    own, attempt = moving(), attempt_of("true")
    attempt.credentials = given(keys="k")
    site: Any = own.transfer(attempt, HTTPS)
    assert site.shows == ()
    attempt.credentials = given(proxy="p")
    assert own.transfer(attempt, FILE) is own.transfer(attempt_of("true"), FILE)


def test_nothing_of_a_user_outlives_the_job() -> None:
    own, attempt = moving(), attempt_of("true")
    attempt.credentials = given(proxy="p")
    made = weakref.ref(own.transfer(attempt, HTTPS))
    assert made() is not None
    del attempt
    gc.collect()
    assert made() is None
