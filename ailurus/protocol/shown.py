"""Texts as people may see them: the URLs in them without users, passwords, queries and fragments.

Errors (`AilurusError`), logs and the jobs that a dispatcher shows pass through here.
"""

from __future__ import annotations

import re

# In a text: who, and whatever follows `?` or `#` up to a blank, without the quotes and stops around
# it. Each repetition is bounded: whoever wrote the text, it is read in a time that grows with its
# length. They are compiled when first needed: a pilot starts without them.
_USER = r"(?<=://)[^\s/?#]*@"
STOPS = "]\"'`)>,.;:"
_STOPS = r"(?=[\]\"'`)>,.;:]{0,8}(?:\s|$))"
_SCHEME = r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://"
_QUERY = rf"({_SCHEME}[^\s?#]*)([?#]\S*?){_STOPS}"
_WORD = r"\S+"


def shown(text: str) -> str:
    """A URL's text, or one with URLs in it, without their users, passwords, queries and fragments.

    Cheap for what has none; for what does not parse it hides too much rather than too little.
    """
    if "?" not in text and "@" not in text and "#" not in text:
        return text
    text = re.sub(_QUERY, _hidden, re.sub(_USER, "", text))
    return re.sub(_WORD, _hidden_target, text)


def _hidden_target(found: re.Match[str]) -> str:
    """What a server was asked for, as urllib3 says it: `/path?query`."""
    path, asks, query = found[0].partition("?")
    begin = path.find("/")
    if not asks or begin < 0 or path[begin - 1 : begin].isalnum() or query in {"", "…"}:
        # `and/or?` is no path.
        return found[0]
    stops = query[len(query.rstrip(STOPS)) :]
    return f"{path}?…{stops}" if stops != query else found[0]


def _hidden(found: re.Match[str]) -> str:
    return found[1] + mark(found[2])


def mark(tail: str) -> str:
    """What stands for a query or fragment that is not shown."""
    return "" if tail.startswith("#") else tail[:1] + "…" * (len(tail) > 1)
