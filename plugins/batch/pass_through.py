"""What a site hands on to a batch system's submit command, and what of it the plugin must say
itself.

`options.submit` is passed on as it is. An option in it that names the job, hides its number or lets
it write elsewhere takes from the edge the means by which it finds its workers: it would submit and
submit. So each plugin declares such words, and its options type refuses them, wherever it is read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from msgspec import Struct


class Grammar(Struct, frozen=True):
    """How a command reads its options, and which of them are not the site's to say."""

    own: Mapping[str, str]
    """By name, `--job-name` or `-J`, or `-W block` for a key in an option's argument: why."""
    flags: frozenset[str]
    """Options that take no argument, or only one written with `=`."""


def check(words: Sequence[str], grammar: Grammar) -> None:
    """Raises ValueError with the first word that is the plugin's own to say."""
    for name, argument in _options(words, grammar):
        if not name:
            raise ValueError(f"{argument!r} would be taken for the script; write `--option=value`")
        why = next((why for own, why in grammar.own.items() if _is(name, own)), "")
        for part in (argument or "").split(","):
            why = why or grammar.own.get(f"{name} {part.partition('=')[0].strip()}", "")
        if why:
            raise ValueError(f"`{name}` cannot stand here: {why}")


def _is(name: str, own: str) -> bool:
    """Long names may be cut short, as getopt takes them."""
    short = len(name) > 3 and name.startswith("--") and " " not in own and own.startswith(name)
    return name == own or short


def _options(words: Sequence[str], grammar: Grammar) -> Iterator[tuple[str, str | None]]:
    """Options with their arguments; a word that belongs to none has no name."""
    rest = iter(words)
    for word in rest:
        if word == "--" or not word.startswith("-") or word == "-":
            yield "", word
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            yield name, (value if equals else None if name in grammar.flags else next(rest, None))
        else:
            yield from _letters(word[1:], rest, grammar)


def _letters(
    letters: str, rest: Iterator[str], grammar: Grammar
) -> Iterator[tuple[str, str | None]]:
    """`-HJname` is -H and -J; the first letter that takes an argument takes what follows."""
    for at, letter in enumerate(letters, start=1):
        if f"-{letter}" in grammar.flags:
            yield f"-{letter}", None
            continue
        yield f"-{letter}", letters[at:] or next(rest, None)
        return


# a command before the others -------------------------------------------------------------------

SHELLS = frozenset({"ssh", "gsissh", "rsh", "remsh", "dbclient", "autossh"})
"""Commands that put the words after them together again for a shell at the other end."""


def behind(prefix: Sequence[str], argv: Sequence[str]) -> list[str]:
    """A command as the prefix must be given it: quoted once for each shell that will read it.

    `[ssh, login]` and `[ssh, gate, ssh, login]` are known by their names; a prefix that ends with
    `-c` takes one word, as `[su, edge, -c]` does.
    """
    words = [shlex.join(argv)] if prefix and prefix[-1] == "-c" else list(argv)
    for _ in range(shells(prefix)):
        words = [shlex.quote(word) for word in words]
    return [*prefix, *words]


def shells(prefix: Sequence[str]) -> int:
    """How many shells at other ends read what follows."""
    return sum(PurePath(word).name in SHELLS for word in prefix)


def check_prefix(prefix: Sequence[str]) -> None:
    """Raises ValueError for a prefix that runs nothing."""
    if prefix and (not prefix[0].strip() or any(one in prefix[0] for one in " \t")):
        raise ValueError(f"{prefix[0]!r} is no command: each word by itself, [ssh, login]")
    if shells(prefix) and {"-t", "-tt"} & {*prefix}:
        raise ValueError(
            "with a terminal, `-t`, commands do not print what they print: leave it out"
        )
    if prefix and PurePath(prefix[-1]).name in SHELLS:
        raise ValueError(f"{prefix[-1]} is to be told where: [ssh, login]")
