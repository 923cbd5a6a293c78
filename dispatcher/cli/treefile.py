"""Reads a file of YAML or JSON that people write. A fault is told with file, line and field."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ailurus.protocol.errors import AilurusError
from dispatcher.cli.exits import DATA, NO_INPUT, CommandError

LARGEST_FILE = 64 * 1024 * 1024
# After aliases are followed: an alias bomb has more.
MOST_NODES = 5_000_000
DEEPEST = 50
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_UNIT = re.compile(r"_(mb|s)$")
# Eight times faster where it is built.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TreeFile:
    """One file, what is in it, and where each thing in it stands. Raises CommandError."""

    page = "docs/jobs.md"
    """Which page says what may be in it."""

    def __init__(self, name: str) -> None:
        self.name = "stdin" if name == "-" else name
        self._text, self.base = _read(name)
        self._node: yaml.Node | None = None
        self.tree = self._json() if self._text.lstrip()[:1] in "{[" else self._yaml()

    @staticmethod
    def _root(node: yaml.Node) -> str:
        """How its outermost thing is called in errors."""
        return ""

    def fault(self, error: AilurusError) -> NoReturn:
        """Raise `error` with its place in this file."""
        raise self.placed(error) from None

    def placed(self, error: AilurusError) -> CommandError:
        """`error` with its place in this file."""
        if self._node is None:
            self._node = _composed(self._text)
        line = _line(self._node, error.field)
        where = f"{self.name}:{line}: {error.field}" if error.field else f"{self.name}:{line}"
        return CommandError(DATA, error.message, field=where, remedy=error.remedy)

    def _json(self) -> Any:
        try:
            return json.loads(self._text, object_pairs_hook=_once, parse_constant=_no_number)
        except (json.JSONDecodeError, _Twice, RecursionError):
            # Flow style looks like JSON; and it knows the line of a fault.
            return self._yaml()

    def _yaml(self) -> Any:
        loader = _Loader(self._text)
        try:
            if line := _too_deep(self._text):
                raise CommandError(
                    DATA, f"nested more than {DEEPEST} deep", field=f"{self.name}:{line}"
                )
            self._node = loader.get_single_node()
            if self._node is None:
                raise CommandError(DATA, "the file is empty", field=f"{self.name}:1")
            for node, path, what in _odd(self._node, self._root(self._node)):
                raise CommandError(
                    DATA, what, field=f"{self.name}:{node.start_mark.line + 1}: {path}".rstrip(": ")
                )
            return loader.construct_document(self._node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            what = error.problem or "not YAML"
            raise CommandError(
                DATA, what, field=f"{self.name}:{line}", remedy=f"see {self.page}"
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            what = " ".join(str(error).split())[:200]
            raise CommandError(DATA, f"not YAML: {what}", field=f"{self.name}:1") from None
        finally:
            loader.dispose()


def _read(name: str) -> tuple[str, str]:
    try:
        if name == "-":
            return sys.stdin.read(LARGEST_FILE), _utf8(Path.cwd())
        path = Path(name)
        if path.stat().st_size > LARGEST_FILE:
            raise CommandError(
                DATA, "longer than 64 MiB", field=name, remedy="split it, or use a sweep"
            )
        return path.read_text("utf-8"), _utf8(path.absolute().parent)
    except OSError as error:
        raise CommandError(NO_INPUT, error.strerror or "unreadable", field=name) from None
    except UnicodeDecodeError as error:
        raise CommandError(DATA, f"not UTF-8 text (byte {error.start})", field=name) from None


def _utf8(path: Path) -> str:
    """A path as the bytes that it is on disk, whatever the locale reads in them."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _too_deep(text: str) -> int:
    """The line where nesting passes the limit, or 0. Asked first: the parser in C makes nodes by
    calling itself, and a deep file would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                return event.start_mark.line + 1 if event.start_mark else 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return 0


def _odd(root: yaml.Node, path: str) -> Iterator[tuple[yaml.Node, str, str]]:
    """What YAML allows and we do not: a key twice, more nodes than anybody writes."""
    sizes: dict[int, int] = {}

    def visit(node: yaml.Node, path: str) -> Iterator[tuple[yaml.Node, str, str]]:
        if id(node) in sizes:
            return
        # A node inside itself has no size.
        sizes[id(node)] = MOST_NODES
        total, seen = 1, set()
        for key, value, step in _children(node):
            if key is not None:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<" and key.value in seen:
                    yield key, f"{path}.{key.value}".lstrip("."), "given twice"
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            yield from visit(value, f"{path}{step}".lstrip("."))
            total += sizes.get(id(value), 1)
            if total >= MOST_NODES:
                yield node, path, "too large once its aliases are followed"
                return
        sizes[id(node)] = total

    yield from visit(root, path)


def _children(node: yaml.Node) -> Iterator[tuple[yaml.Node | None, yaml.Node, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, value, f".{key.value}" if isinstance(key, yaml.ScalarNode) else ""
    elif isinstance(node, yaml.SequenceNode):
        for nr, value in enumerate(node.value):
            yield None, value, f"[{nr}]"


def _composed(text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = None if _too_deep(text) else yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return None
    return node


def _line(node: yaml.Node | None, field: str) -> int:
    """The line where `field` stands, or the nearest thing above it that is written down."""
    if node is None:
        return 1
    steps: list[str | int] = [int(nr) if nr else name for name, nr in _STEP.findall(field)]
    jobs = value_of(node, "jobs")
    defaults = value_of(node, "defaults") if jobs is not None else None
    if steps[:1] == ["jobs"]:
        steps = steps[1:]
        node = jobs or node
        if not isinstance(node, yaml.SequenceNode):
            # The one job of the file.
            steps = steps[1:]
    line = node.start_mark.line + 1
    for nr, step in enumerate(steps):
        below = _below(node, step)
        if below is None and nr <= 1 and defaults is not None and isinstance(step, str):
            below = _below(defaults, step)
        if below is None:
            break
        line, node = below
    return line


def _below(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(step, int):
        if isinstance(node, yaml.SequenceNode) and step < len(node.value):
            return node.value[step].start_mark.line + 1, node.value[step]
        return None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in (step, _UNIT.sub("", step)):
                return key.start_mark.line + 1, value
    return None


def value_of(node: yaml.Node, name: str) -> yaml.Node | None:
    """What stands under a name in a mapping."""
    below = _below(node, name)
    return None if below is None else below[1]


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Twice
    return content


def _no_number(word: str) -> NoReturn:
    raise _Twice(word)
