"""The language of queries: what a text means, and where it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import faults, filters
from ailurus.protocol import query as q
from ailurus.protocol.api import Filter
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.query_text import DEEPEST, LONGEST, MOST_VALUES, parse
from ailurus.protocol.states import OPEN

FAILED = q.Words("state", (q.Word("failed"),))
TWO_HOURS = q.Compared("age", "<", 7200.0)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", q.EVERY),
        (" \n", q.EVERY),
        ("state:failed", FAILED),
        ("STATE:Failed", FAILED),
        ("state:failed age<2h", q.All((FAILED, TWO_HOURS))),
        ("state:failed and age < 2h", q.All((FAILED, TWO_HOURS))),
        ("state:failed or age<2h", q.Either((FAILED, TWO_HOURS))),
        ("not state:failed age<2h", q.All((q.Not(FAILED), TWO_HOURS))),
        ("not (state:failed or age<2h)", q.Not(q.Either((FAILED, TWO_HOURS)))),
        ("state!=failed", q.Not(FAILED)),
        ("queue:a,b", q.Words("queue", (q.Word("a"), q.Word("b")))),
        ('queue:""', q.Words("queue", (q.Word(""),))),
        ("host:*.cern.ch", q.Words("host", (q.Word(".cern.ch", q.Wild.BEGINNING),))),
        ('user:"a*"', q.Words("user", (q.Word("a*"),))),
        ("owner:a", q.Words("user", (q.Word("a"),))),
        ("error:1305", q.Numbers("code", (1305,))),
        ("code:1305,1099", q.Numbers("code", (1305, 1099))),
        ("priority>=-5", q.Compared("priority", ">=", -5.0)),
        ("id:3-9", q.All((q.Compared("id", ">=", 3.0), q.Compared("id", "<=", 9.0)))),
        ("#17", q.Numbers("id", (17,))),
        ("duration>1-00:00:00", q.Compared("duration", ">", 86400.0)),
        ("sweep", q.Words("name", (q.Word("sweep", q.Wild.END),))),
        ("name:sweep", q.Words("name", (q.Word("sweep"),))),
        ("label:campaign", q.Label("campaign")),
        ("label:campaign=mc23,mc24", q.Label("campaign", (q.Word("mc23"), q.Word("mc24")))),
        ('label:note="two words"', q.Label("note", (q.Word("two words"),))),
        ('text:"disk full"', q.Text("disk full")),
        ('"disk \\"full\\""', q.Text('disk "full"')),
        ("state:open", q.Words("state", tuple(q.Word(one) for one in sorted(OPEN)))),
    ],
)
def test_a_text_means_a_tree(text, tree):
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("stat:failed", 1, "did you mean `state`?"),
        ("queue:a state:faild", 9, "did you mean `failed`?"),
        ("state:held", 1, "did you mean `pending`?"),
        ("colour:red", 1, "known: state"),
        ("state:failed )", 14, "take it away"),
        ("(state:failed", 1, "close it"),
        ("state:failed or", 16, "write one"),
        ("not", 4, "write one"),
        ('text:"disk', 6, "close it"),
        ("age:2h", 1, "age<2h or age>2h"),
        ("age<soon", 1, "write 90m"),
        ("queue<5", 1, "write queue:…"),
        ("code:abc", 1, "code:17"),
        ("queue:", 1, 'or "" for none'),
        ("name:a*b", 1, "beginning or the end"),
        ("id:9-3", 1, "write 3-9"),
        ("label:=x", 1, "label:campaign=mc23"),
        ("a,b", 1, "quotes"),
        ('""', 1, "disk full"),
        ('"a\0b"', 3, "take it away"),
    ],
)
def test_a_fault_says_where_it_is_and_what_helps(text, place, remedy):
    with pytest.raises(AilurusError) as refused:
        parse(text)
    assert refused.value.message.startswith(f"at character {place}: ")
    assert remedy in refused.value.remedy
    assert refused.value.field == "query"


@pytest.mark.parametrize(
    "text",
    [
        "x" * (LONGEST + 1),
        "(" * (DEEPEST + 1) + "a",
        f"code:{',7' * (MOST_VALUES + 1)}",
        '"x"' * (MOST_VALUES + 1),
    ],
)
def test_a_query_has_a_bound(text):
    with pytest.raises(AilurusError):
        parse(text)


words = st.builds(
    q.Word, st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=9)
) | st.builds(q.Word, st.from_regex(r"[a-z0-9.]{1,5}", fullmatch=True), st.sampled_from(q.Wild))
some = st.lists(words, min_size=1, max_size=3).map(tuple)
numbers = st.integers(-(10**12), 10**12)
leaves = (
    st.builds(q.Words, st.sampled_from([one for one in q.WORDS if one != "state"]), some)
    | st.builds(q.Label, st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True), some | st.just(()))
    | st.builds(q.Numbers, st.sampled_from(q.NUMBERS), st.lists(numbers, min_size=1).map(tuple))
    | st.builds(
        q.Compared,
        st.sampled_from(q.NUMBERS),
        st.sampled_from(["<", "<=", ">", ">="]),
        numbers.map(float),
    )
    | st.builds(
        q.Compared,
        st.sampled_from(q.TIMES),
        st.sampled_from(["<", ">="]),
        st.integers(0, 10**9).map(float),
    )
    | st.builds(q.Text, words.map(lambda word: word.text).filter(bool))
)


def _joined(kind, of):
    """As a reader joins them: none of a kind within another of it."""
    return kind(tuple(of))


def _trees(inner):
    def several(kind):
        plain = inner.filter(lambda one: not isinstance(one, kind))
        return st.lists(plain, min_size=2, max_size=3).map(lambda of: _joined(kind, of))

    return st.builds(q.Not, inner) | several(q.All) | several(q.Either)


trees = st.recursive(leaves, _trees, max_leaves=8)


@given(trees)
def test_a_tree_is_spoken_and_read_again(tree):
    assert parse(q.spoken(tree)) == tree


def test_every_code_is_somebodys_fault_and_can_be_searched_for():
    assert set(Code) - set(faults.TABLE) == {Code.OK}
    assert parse("fault:us") == q.Numbers("code", (201, 1008, 1319))
    assert 1305 in parse("fault:payload,input").numbers
    with pytest.raises(AilurusError, match="nobody"):
        parse("fault:cat")


@pytest.mark.parametrize(
    "ask",
    [
        Filter(),
        Filter(name="*"),
        Filter(name="sweep*"),
        Filter(name="a,b"),
        Filter(state="failed,closed", user="ann", queue="q", code=1305, kind=7),
        Filter(queue="q", query="state:failed or age<2h"),
        Filter(queue="q", name="a*", query="state:failed age<2h"),
        Filter(query="not label:a"),
    ],
)
def test_the_text_of_a_filter_finds_what_the_filter_does(ask):
    assert parse(filters.text(ask)) == filters.meaning(ask)


@pytest.mark.parametrize("name", ["a,b*", "my job*", "*x*"])
def test_a_beginning_of_a_name_that_would_find_others_is_refused(name):
    with pytest.raises(AilurusError) as refused:
        filters.text(Filter(name=name))
    assert refused.value.field == "name"
