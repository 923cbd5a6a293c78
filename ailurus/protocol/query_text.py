"""Reads a query that a person has written, and says where it cannot be read. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.faults import Fault, codes_of
from ailurus.protocol.query import (
    EVERY,
    FIELDS,
    NUMBERS,
    TIMES,
    All,
    Compared,
    Either,
    Label,
    Not,
    Numbers,
    Query,
    Text,
    Wild,
    Word,
    Words,
)
from ailurus.protocol.states import FINAL, OPEN, JobState
from ailurus.protocol.units import duration_s

LONGEST = 2000
"""Characters of a query."""
MOST_VALUES = 100
"""Values that it compares with, in all."""
DEEPEST = 20
"""Parentheses and `not` within each other."""
_ALIASES = {"error": "code", "owner": "user", "job": "id", "attempt": "try"}
_STATES = {"open": sorted(OPEN), "final": sorted(FINAL)}
"""Words for several states."""
_CALLED = {
    "held": ["pending"],
    "blocked": ["pending"],
    "queued": ["activated"],
    "waiting": ["activated"],
    "done": ["finished"],
}
"""Words of other systems, or of this one's verbs, and the states that they mean."""
# What a quoted text may hold, with its backslashes; a word; a name of a field and a sign.
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r'[^\s()"]+')
_HEAD = re.compile(r"([A-Za-z_]+)\s*(:|!=|<=|>=|=|<|>)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"-?\d{1,15}")
_RANGE = re.compile(r"(\d{1,15})-(\d{1,15})")
_NAME = re.compile(r"[A-Za-z0-9_.:+@=*-]+")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")


def parse(text: str) -> Query:
    """The tree of a query; a blank one is every job. Raises AilurusError, which tells where."""
    if len(text) > LONGEST:
        raise AilurusError(
            f"a query of {len(text):,} characters", field="query", remedy=f"at most {LONGEST:,}"
        )
    if (nul := text.find("\0") + 1) > 0:
        raise AilurusError(
            f"at character {nul}: a NUL, which no job has anywhere",
            field="query",
            remedy="take it away",
        )
    return _Reader(text).whole()


class _Reader:
    """Reads a query from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._terms = 0

    def whole(self) -> Query:
        if not self._rest():
            return EVERY
        found = self._either()
        if self._rest():
            raise self._fault("a `)` that closes nothing", "take it away, or open it before")
        return found

    def _rest(self) -> str:
        """What is left, without the blanks before it."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at :]

    def _fault(self, what: str, remedy: str, at: int | None = None) -> AilurusError:
        place = (self._at if at is None else at) + 1
        return AilurusError(f"at character {place}: {what}", field="query", remedy=remedy)

    def _is(self, word: str) -> bool:
        """Whether a word of the language comes now; it is then read."""
        found = _PLAIN.match(self._rest())
        if found is None or found[0].lower() != word:
            return False
        self._at += len(word)
        return True

    def _either(self) -> Query:
        found = [self._all()]
        while self._is("or"):
            found.append(self._all())
        return found[0] if len(found) == 1 else Either(_flat(found, Either))

    def _all(self) -> Query:
        found = [self._one()]
        while (rest := self._rest()) and not rest.startswith(")") and not self._before_or(rest):
            self._is("and")
            found.append(self._one())
        return found[0] if len(found) == 1 else All(_flat(found, All))

    @staticmethod
    def _before_or(rest: str) -> bool:
        word = _PLAIN.match(rest)
        return word is not None and word[0].lower() == "or"

    def _one(self) -> Query:
        rest = self._rest()
        if not rest or rest.startswith(")") or self._before_or(rest):
            raise self._fault("a term is missing", "write one, such as state:failed")
        if self._is("not"):
            with _Deeper(self):
                return Not(self._one())
        if not rest.startswith("("):
            return self._term()
        opened = self._at
        self._at += 1
        with _Deeper(self):
            found = self._either()
        if not self._rest().startswith(")"):
            raise self._fault("a `(` that nothing closes", "close it with `)`", opened)
        self._at += 1
        return found

    def deeper(self, by: int) -> None:
        self._depth += by
        if self._depth > DEEPEST:
            raise self._fault(
                f"more than {DEEPEST} parentheses within each other", "write it flatter"
            )

    def _term(self) -> Query:
        begin = self._at
        head = _HEAD.match(self._text, self._at)
        if head is None:
            return self._bare(begin)
        self._at = head.end()
        field = self._field(head[1], begin)
        if head[2] != ":":
            self._rest()
        values = self._values(begin, head[0])
        self._count(len(values), begin)
        sign = head[2]
        if sign == "!=":
            return Not(self._meaning(field, "=", values, begin))
        return self._meaning(field, sign, values, begin)

    def _count(self, values: int, at: int) -> None:
        self._terms += values
        if self._terms > MOST_VALUES:
            raise self._fault(f"more than {MOST_VALUES} values", "search for fewer", at)

    def _field(self, word: str, at: int) -> str:
        name = _ALIASES.get(word.lower(), word.lower())
        if name in FIELDS:
            return name
        near = difflib.get_close_matches(name, (*FIELDS, *_ALIASES), n=1, cutoff=0.5)
        known = f"known: {', '.join(FIELDS)}"
        raise self._fault(f"no field {word!r}", f"did you mean `{near[0]}`?" if near else known, at)

    def _bare(self, begin: int) -> Query:
        """A word alone: a number is a job's, another word begins a name, a quoted one is searched
        for."""
        self._count(1, begin)
        if self._text.startswith('"', self._at):
            if not (text := self._quoted()):
                # All jobs have it: an empty variable of a script is no wish to cancel them all.
                raise self._fault("no text to search for", '"disk full"', begin)
            return Text(text)
        found = _PLAIN.match(self._text, self._at)
        word = found[0] if found else ""
        self._at += len(word)
        number = word.removeprefix("#")
        if _NUMBER.fullmatch(number) and not number.startswith("-"):
            return Numbers("id", (int(number),))
        if bounds := _RANGE.fullmatch(number):
            return self._range("id", bounds, begin)
        if not _NAME.fullmatch(word):
            raise self._fault(
                f"{word!r} is no name", "put what is to be searched for in quotes", begin
            )
        one = self._word(word, begin)
        return Words("name", (Word(one.text, Wild.END) if one.wild is Wild.NEITHER else one,))

    def _values(self, begin: int, head: str) -> list[tuple[str, bool]]:
        """The texts behind a sign, and of each whether it was quoted."""
        found: list[tuple[str, bool]] = []
        while True:
            if self._text.startswith('"', self._at):
                found.append((self._quoted(), True))
            else:
                plain = _PLAIN.match(self._text, self._at)
                text, _, _ = plain[0].partition(",") if plain else ("", "", "")
                self._at += len(text)
                if self._text.startswith('"', self._at) and text:
                    # A key and a quoted value of a label.
                    text, quoted = text + self._quoted(), True
                    found.append((text, quoted))
                elif text:
                    found.append((text, False))
            if not self._text.startswith(",", self._at):
                break
            self._at += 1
        if not found:
            raise self._fault(f"nothing follows `{head}`", 'write a value, or "" for none', begin)
        return found

    def _quoted(self) -> str:
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            raise self._fault('a `"` that nothing closes', 'close it with `"`')
        self._at = found.end()
        return _ESCAPED.sub(r"\1", found[1])

    def _meaning(self, field: str, sign: str, values: Sequence[tuple[str, bool]], at: int) -> Query:
        if field in TIMES or sign in ("<", "<=", ">", ">="):
            return self._compared(field, sign, values, at)
        if field in NUMBERS:
            return self._numbers(field, values, at)
        if field == "text":
            texts = [Text(text) for text, _ in values if text]
            if not texts:
                raise self._fault("no text to search for", 'text:"disk full"', at)
            return texts[0] if len(texts) == 1 else Either(tuple(texts))
        if field == "fault":
            return self._fault_of(values, at)
        if field == "label":
            return self._label(values, at)
        words = [self._word(text, at, quoted=quoted) for text, quoted in values]
        return Words(field, self._states(words, at) if field == "state" else tuple(words))

    def _word(self, text: str, at: int, *, quoted: bool = False) -> Word:
        """A text, or with `*` a part of one; what is quoted is meant as it is."""
        if quoted or "*" not in text:
            return Word(text)
        inner = text.removeprefix("*").removesuffix("*") if text != "*" else ""
        if "*" in inner:
            raise self._fault(
                f"a `*` within {text!r}", "a * stands at the beginning or the end", at
            )
        if text == "*":
            return Word("", Wild.END)
        ends = (text.startswith("*"), text.endswith("*"))
        wild = {(True, True): Wild.BOTH, (True, False): Wild.BEGINNING, (False, True): Wild.END}
        return Word(inner, wild[ends])

    def _states(self, words: Sequence[Word], at: int) -> tuple[Word, ...]:
        found: list[str] = []
        for word in words:
            name = word.text.lower()
            if word.wild is Wild.NEITHER and name in _STATES:
                found += _STATES[name]
            elif word.wild is Wild.NEITHER and name in set(JobState):
                found.append(name)
            else:
                known = [*JobState, *_STATES]
                like = _CALLED.get(name) or difflib.get_close_matches(name, known)
                raise self._fault(
                    f"{word.text!r} is no state",
                    f"did you mean `{like[0]}`?" if like else ", ".join(known),
                    at,
                )
        return tuple(Word(name) for name in dict.fromkeys(found))

    def _numbers(self, field: str, values: Sequence[tuple[str, bool]], at: int) -> Query:
        numbers: list[int] = []
        ranges: list[Query] = []
        for text, _ in values:
            if bounds := _RANGE.fullmatch(text):
                ranges.append(self._range(field, bounds, at))
            elif _NUMBER.fullmatch(text):
                numbers.append(int(text))
            else:
                raise self._fault(f"{text!r} is no number", f"write {field}:17, {field}:3-9", at)
        found = [Numbers(field, tuple(numbers))] if numbers else []
        either = [*found, *ranges]
        return either[0] if len(either) == 1 else Either(tuple(either))

    def _range(self, field: str, bounds: re.Match[str], at: int) -> Query:
        first, last = int(bounds[1]), int(bounds[2])
        if first > last:
            raise self._fault(f"{bounds[0]} ends before it begins", f"write {last}-{first}", at)
        return All((Compared(field, ">=", first), Compared(field, "<=", last)))

    def _compared(
        self, field: str, sign: str, values: Sequence[tuple[str, bool]], at: int
    ) -> Query:
        if field not in (*NUMBERS, *TIMES):
            raise self._fault(f"{field} is neither less nor more", f"write {field}:…", at)
        if sign in (":", "="):
            raise self._fault(
                f"{field} is never exactly a time", f"write {field}<2h or {field}>2h", at
            )
        if len(values) > 1:
            raise self._fault(f"{field}{sign} with several values", "write one", at)
        ((text, _),) = values
        try:
            number = duration_s(text) if field in TIMES else float(int(text))
        except AilurusError as error:
            raise self._fault(error.message, error.remedy, at) from None
        except ValueError:
            raise self._fault(f"{text!r} is no number", f"write {field}{sign}5", at) from None
        if abs(number) > 1e15:
            raise self._fault(f"{text} is too large", "write a smaller one", at)
        return Compared(field, sign, number)

    def _fault_of(self, values: Sequence[tuple[str, bool]], at: int) -> Query:
        """Failures by whose fault they are: those with certain codes."""
        codes: list[int] = []
        for text, _ in values:
            if text.lower() not in set(Fault) - {Fault.UNKNOWN}:
                remedy = ", ".join(one for one in Fault if one is not Fault.UNKNOWN)
                raise self._fault(f"{text!r} is nobody", remedy, at)
            codes += codes_of(Fault(text.lower()))
        return Numbers("code", tuple(codes))

    def _label(self, values: Sequence[tuple[str, bool]], at: int) -> Query:
        """`label:key`, `label:key=value,other`."""
        (first, quoted), *more = values
        key, equals, value = first.partition("=")
        if not _KEY.fullmatch(key):
            raise self._fault(f"{key!r} is no name of a label", "label:campaign=mc23", at)
        if not equals:
            if more:
                raise self._fault("a label without a value", f"label:{key}=…", at)
            return Label(key)
        return Label(
            key,
            (
                self._word(value, at, quoted=quoted),
                *(self._word(text, at, quoted=was) for text, was in more),
            ),
        )


class _Deeper:
    """One level further down."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        self._reader.deeper(+1)

    def __exit__(self, *_: object) -> None:
        self._reader.deeper(-1)


def _flat(found: Sequence[Query], kind: type[All | Either]) -> tuple[Query, ...]:
    """Without those of the same kind within each other."""
    flat: list[Query] = []
    for one in found:
        flat += one.of if isinstance(one, kind) and one.of else (one,)
    return tuple(flat)
