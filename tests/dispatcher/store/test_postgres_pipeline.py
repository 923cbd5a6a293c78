"""More than a socket takes at once is sent, whatever the server answers meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket

import psycopg
import pytest

from dispatcher.store.postgres_pipeline import pipeline

LONG = "x" * 3_000_000
# An answer that the server cannot send before we read.
ASKED = "select length(%s::text), repeat('y', 3000000)"

# Without the rule they would wait for ever.
pytestmark = pytest.mark.timeout(15)


@pytest.fixture
def connection(postgres_server):
    with psycopg.connect(postgres_server.database(), autocommit=True) as made:
        with socket.socket(fileno=os.dup(made.fileno())) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        yield made


@pytest.mark.parametrize("pad", [0, 1000, 3000])
def test_answers_come_to_what_is_larger_than_the_socket_takes(connection, pad):
    with pipeline(connection) as sending:
        cursors = [connection.execute(ASKED, [LONG + "x" * pad]) for _ in range(3)]
        sending.sync()
        lengths = [cursor.fetchone()[0] for cursor in cursors]
    assert lengths == [len(LONG) + pad] * 3


def test_a_pipeline_ends_with_all_sent(connection):
    connection.execute("create table t (text text)")
    with pipeline(connection):
        connection.execute("insert into t values (%s)", [LONG])
    assert connection.execute("select length(text) from t").fetchone() == (len(LONG),)


def test_a_pipeline_that_fails_is_left(connection):
    with contextlib.suppress(KeyError), pipeline(connection):
        connection.execute(ASKED, [LONG])
        raise KeyError
    assert connection.execute("select 1").fetchone() == (1,)
