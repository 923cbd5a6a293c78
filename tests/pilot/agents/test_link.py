"""The link of pilot and agents: only what the other end said is taken, once and in order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from pilot.agents import messages as a
from pilot.agents.link import KEY_BYTES, MAGIC, Handshake, Session, Stranger, body_of
from pilot.node_ports import NOTHING
from pilot.ports import ProcessEnd
from pilot.process.frames import LONGEST, encode
from pilot.samples import Sample

KEY = b"k" * KEY_BYTES


def handshake(agents: bytes = KEY, heads: bytes = KEY) -> tuple[Handshake, Handshake]:
    """Both ends after they have spoken, or Stranger."""
    agent, head = Handshake(agents, agent=True), Handshake(heads, agent=False)
    proof = agent.feed(head.feed(agent.greeting))
    assert head.feed(proof) == b""
    return agent, head


def sessions() -> tuple[Session, Session]:
    agent, head = handshake()
    assert agent.session is not None
    assert head.session is not None
    return agent.session, head.session


@given(st.lists(st.lists(st.binary(max_size=40), max_size=4), max_size=8), st.data())
def test_what_one_end_says_the_other_hears_however_it_is_cut(said, data):
    agent, head = sessions()
    stream, heard = b"".join(agent.frame(body_of(messages)) for messages in said), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        heard += [msgpack.decode(body) for body in head.open(stream[:cut])]
        stream = stream[cut:]
    assert heard == said


def test_both_ends_speak_with_keys_of_their_own():
    agent, head = sessions()
    assert head.open(agent.frame(body_of(["a"]))) == [msgpack.encode(["a"])]
    assert agent.open(head.frame(body_of(["b"]))) == [msgpack.encode(["b"])]
    with pytest.raises(Stranger):
        agent.open(agent.frame(body_of(["c"])))


@pytest.mark.parametrize(("agents", "heads"), [(b"x" * KEY_BYTES, KEY), (KEY, b"x" * KEY_BYTES)])
def test_who_lacks_the_key_is_a_stranger(agents, heads):
    with pytest.raises(Stranger, match="this allocation's key"):
        handshake(agents, heads)


def test_a_head_does_not_take_its_own_proof_for_an_agents():
    head = Handshake(KEY, agent=False)
    answer = head.feed(MAGIC + b"n" * KEY_BYTES)
    with pytest.raises(Stranger):
        head.feed(answer[-KEY_BYTES:])


def test_a_proof_of_another_connection_is_worth_nothing():
    agent = Handshake(KEY, agent=True)
    old = Handshake(KEY, agent=False)
    proof = agent.feed(old.feed(agent.greeting))
    new = Handshake(KEY, agent=False)
    new.feed(agent.greeting)
    with pytest.raises(Stranger):
        new.feed(proof)


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_with_its_first_wrong_byte(garbage):
    head = Handshake(KEY, agent=False)
    piece = garbage[: head.missing]
    if piece[: len(MAGIC)] == MAGIC[: len(piece)]:
        assert head.feed(piece) in (b"", head.feed(b""))
    else:
        with pytest.raises(Stranger, match="protocol"):
            head.feed(piece)


def test_no_more_is_asked_for_than_a_step_has():
    head = Handshake(KEY, agent=False)
    assert head.missing == len(MAGIC) + KEY_BYTES
    head.feed(MAGIC)
    assert head.missing == KEY_BYTES
    head.feed(b"n" * KEY_BYTES)
    assert head.missing == KEY_BYTES


@given(st.integers(0, 100), st.integers(1, 255))
def test_a_changed_byte_ends_the_connection(where, change):
    agent, head = sessions()
    frame = bytearray(agent.frame(body_of(["a message", 1, 2])))
    frame[4 + where % (len(frame) - 4)] ^= change
    with pytest.raises(Stranger, match="changed"):
        head.open(bytes(frame))


def test_a_changed_length_ends_the_connection():
    agent, head = sessions()
    frame = agent.frame(body_of(["a message"]))
    with pytest.raises(Stranger, match="changed"):
        head.open(bytes(4) + frame[4:])


def test_a_frame_that_comes_again_or_is_left_out_ends_the_connection():
    agent, head = sessions()
    first, second = agent.frame(body_of(["1"])), agent.frame(body_of(["2"]))
    head.open(first)
    with pytest.raises(Stranger, match="repeated or left out"):
        head.open(first)
    agent, head = sessions()
    first, second = agent.frame(body_of(["1"])), agent.frame(body_of(["2"]))
    with pytest.raises(Stranger, match="repeated or left out"):
        head.open(second)


def test_a_length_that_no_frame_has_is_refused_before_it_is_there():
    _, head = sessions()
    with pytest.raises(Stranger, match="a frame of"):
        head.open((LONGEST + 1).to_bytes(4, "big") + bytes(16))


def test_a_frame_that_would_not_be_taken_is_not_sent():
    with pytest.raises(ValueError, match="a frame of"):
        body_of([bytes(LONGEST)])


@pytest.mark.parametrize(
    "message",
    [
        a.Looked([Sample(key="7.1", cpu_s=float("nan"))]),
        a.Looked([Sample(key="7.1", gpu_s=float("inf"))]),
        a.Looked([Sample(key="7.1", rss_kb=-1)]),
        a.Looked([Sample(key="7.1", read_bytes=2**63)]),
        a.ProcessOver(1, ProcessEnd(key=1, exit_code=5000)),
        a.TasksOver([a.TaskOver(1, ProcessEnd(key=1, max_rss_kb=-1), NOTHING, NOTHING)]),
    ],
    ids=range(6),
)
def test_an_agent_that_tells_what_no_report_can_hold_is_not_understood(message):
    """It costs that agent: the dispatcher would refuse the heartbeat of the whole pilot."""
    assert a.from_agent(encode([a.Looked([Sample(key="7.1", cpu_s=1.5, rss_kb=10**12)])]))
    with pytest.raises(msgspec.ValidationError):
        a.from_agent(encode([message]))
