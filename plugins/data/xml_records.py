"""Lists that servers send as XML: flat records with a few fields, whatever else is in them.

They come from storage that a job names, so nothing is believed: no document type, and with it no
entity, is taken; depth, length and the number of records are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from xml.parsers import expat

MOST_BYTES = 64 << 20
"""Of a whole answer: 10,000 files take ten."""
MOST_DEPTH = 32
LONGEST = 16 << 10
"""Characters of a field."""


class BadXml(ValueError):
    """An answer that is no such list; the text says why."""


class Records:
    """The fields of each element `record`, by their names without a namespace; one that is there
    without a text is blank. `beside` has those outside of any record."""

    def __init__(self, record: str, fields: Iterable[str]) -> None:
        self.beside: dict[str, str] = {}
        self._record, self._fields = record, frozenset(fields)
        self._done: list[Mapping[str, str]] = []
        self._now: dict[str, str] | None = None
        self._path: list[str] = []
        self._seen = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def of(self, pieces: Iterable[bytes]) -> Iterator[Mapping[str, str]]:
        """The records of an answer that comes in pieces, as they come. Raises BadXml."""
        for piece in pieces:
            self._seen += len(piece)
            if self._seen > MOST_BYTES:
                raise BadXml(f"it has more than {MOST_BYTES >> 20} MiB")
            yield from self._parsed(piece, last=False)
        yield from self._parsed(b"", last=True)

    def _parsed(self, piece: bytes, *, last: bool) -> list[Mapping[str, str]]:
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            raise BadXml(f"it is no XML ({error})") from None
        done, self._done = self._done, []
        return done

    def _refuse(self, *_: object) -> None:
        raise BadXml("it declares a document type")

    def _begin(self, name: str, _: Mapping[str, str]) -> None:
        name = name.rpartition(" ")[2]
        self._path.append(name)
        if len(self._path) > MOST_DEPTH:
            raise BadXml(f"it is more than {MOST_DEPTH} deep")
        if name == self._record:
            self._now = {}
        elif name in self._fields:
            self._into.setdefault(name, "")

    def _end(self, name: str) -> None:
        self._path.pop()
        if name.rpartition(" ")[2] == self._record and self._now is not None:
            self._done.append(self._now)
            self._now = None

    def _text(self, text: str) -> None:
        name = self._path[-1]
        if name in self._fields:
            known = self._into.get(name, "")
            if len(known) + len(text) > LONGEST:
                raise BadXml(f"a {name} is longer than {LONGEST} characters")
            self._into[name] = known + text

    @property
    def _into(self) -> dict[str, str]:
        return self.beside if self._now is None else self._now
