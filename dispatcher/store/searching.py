"""A query of users as a condition of SQL.

Its text is made of the fragments in `sql/` and of names of parameters, whatever the query says: a
text that a person wrote is only ever the value of a parameter. A test holds that two queries of
one form have one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ailurus.protocol.query import (
    NUMBERS,
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

# Of `Compared`.
_SIGNS = {"<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WILD = {Wild.END: "begins", Wild.BEGINNING: "ends", Wild.BOTH: "contains"}
_NOW = "now"


def searched(
    text: str, query: Query, now: float, fragments: Mapping[str, str]
) -> tuple[str, dict[str, object]]:
    """The text of a statement with a query in the place of its `{where}`, and the values of the
    parameters of the query. `now`: seconds since 1970."""
    writer = _Writer(fragments, now)
    condition = writer.condition(query)
    return text.replace(fragments["where"], f"({condition})"), writer.values


class _Writer:
    """Writes conditions, and gathers the values of their parameters."""

    def __init__(self, fragments: Mapping[str, str], now: float) -> None:
        self._fragments = fragments
        self._now = now
        self.values: dict[str, object] = {}

    def condition(self, query: Query) -> str:
        """What holds of a job that matches. It is true or false, and never null."""
        if isinstance(query, All):
            parts = [f"({self.condition(one)})" for one in query.of]
            return " and ".join(parts) or self._fragments["where"]
        if isinstance(query, Either):
            return " or ".join(f"({self.condition(one)})" for one in query.of)
        if isinstance(query, Not):
            return f"not ({self.condition(query.of)})"
        if isinstance(query, Words):
            return self._words(self._column(query.field), query.words)
        if isinstance(query, Numbers):
            column = self._column(query.field)
            # None: a kind of failure that is not there.
            return self._either(f"{column} = {self._value(n)}" for n in query.numbers)
        if isinstance(query, Compared):
            column = self._column(query.field)
            number = int(query.number) if query.field in NUMBERS else query.number
            return f"coalesce({column} {_SIGNS[query.sign]} {self._value(number)}, false)"
        if isinstance(query, Label):
            return self._label(query)
        return self._text(query)

    def _column(self, field: str) -> str:
        column = self._fragments[f"of_{field}"]
        if "{now}" in column:
            self.values[_NOW] = self._now
        return column.replace("{now}", f":{_NOW}")

    def _value(self, value: object) -> str:
        name = f"q{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def _piece(self, name: str, **parts: str) -> str:
        return self._fragments[name].format_map(parts)

    def _either(self, conditions: Iterable[str]) -> str:
        return " or ".join(conditions) or "false"

    def _words(self, column: str, words: tuple[Word, ...]) -> str:
        return self._either(self._word(column, word) for word in words)

    def _word(self, column: str, word: Word) -> str:
        value = self._value(word.text)
        if word.wild is Wild.NEITHER:
            return f"{column} = {value}"
        return self._piece(_WILD[word.wild], column=column, value=value)

    def _label(self, query: Label) -> str:
        key = self._value(query.key)
        if not query.words:
            return self._piece("has_label", value=key)
        return self._piece("has_value", value=key, words=self._words("l.value", query.words))

    def _text(self, query: Text) -> str:
        value = self._value(_folded(query.text))
        return self._either(
            self._piece("contains", column=self._piece("folded", column=column), value=value)
            for column in (self._fragments["of_diagnosis"], self._fragments["of_name"])
        )


def _folded(text: str) -> str:
    """Without the case of ASCII's letters."""
    return text.translate(_LOWER)


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
