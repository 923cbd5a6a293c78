"""A site file and the profiles it extends as one tree, in which every value knows its file and
line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from msgspec import Struct

from ailurus.regular import NotRegular, settings_in

PROFILES = Path(__file__).parents[2] / "site_configs" / "profiles"
At = tuple[str | int, ...]
"""Where a value stands: ("slots", "std", "cores")."""
MOST_DEEP = 50
ALIAS = "*"
"""The tag that stands for an alias; no tag of YAML is this."""


class Fault(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, and what would help."""

    file: str
    line: int
    key: str
    message: str
    remedy: str = ""
    rule: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.file}:{self.line}: {key}{self.message}{remedy}  [{self.rule}]"


class Tree:
    """The data of a site file and of the profiles that it extends, and where each value stands."""

    def __init__(self) -> None:
        self.data: Any = {}
        self.marks: dict[At, tuple[str, int]] = {}
        self.faults: list[Fault] = []

    def own(self, path: At) -> bool:
        """Whether the site's file says this itself, and not a profile of it."""
        return self.marks.get(path, ("", 0))[0] == self.marks[()][0]

    def fault(self, path: At, rule: str, message: str, remedy: str = "") -> Fault:
        """A fault at the value, or else at the nearest thing around it that exists."""
        at = path
        while at and at not in self.marks:
            at = at[:-1]
        file, line = self.marks.get(at, ("", 0))
        return Fault(
            file=file, line=line, key=dotted(path), message=message, remedy=remedy, rule=rule
        )


def read(path: Path) -> Tree:
    """The data of a file over that of the profiles it extends."""
    tree = Tree()
    _read_into(tree, path, ())
    return tree


def _read_into(tree: Tree, path: Path, above: tuple[Path, ...]) -> None:
    one = _parse(path)
    tree.faults += one.faults
    profile = one.data.get("extends") if isinstance(one.data, dict) else None
    if isinstance(profile, str) and profile:
        base = _profile(profile, path)
        if base is None:
            known = sorted(file.stem for file in PROFILES.glob("*.yaml"))
            message = f"there is no profile {profile!r}"
            tree.faults.append(one.fault(("extends",), "E005", message, nearest(profile, known)))
        elif base.resolve() in (path.resolve(), *above):
            remedy = "leave it out in one of them"
            tree.faults.append(one.fault(("extends",), "E005", "extends itself", remedy))
        else:
            _read_into(tree, base, (*above, path.resolve()))
    tree.data = _merge(tree.data, one.data)
    tree.marks.update(one.marks)


def _profile(name: str, path: Path) -> Path | None:
    plain = name.replace("-", "").isalnum()
    places = [
        path.parent / name,
        path.parent / f"{name}.yaml",
        path.parent / "profiles" / f"{name}.yaml",
    ]
    if plain:
        places.append(PROFILES / f"{name}.yaml")
    return next((place for place in places if _is_file(place)), None)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    # A name that is too long for one.
    except OSError:
        return False


def _merge(base: Any, over: Any) -> Any:
    """Mappings are merged key by key; anything else replaces what was there."""
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {**base, **over}
        merged.update({key: _merge(base[key], over[key]) for key in base.keys() & over.keys()})
        return merged
    return over


def _parse(path: Path) -> Tree:
    tree = Tree()
    tree.marks[()] = (str(path), 1)
    try:
        node = yaml.compose(settings_in(path).decode(), Loader=_Loader)
    except OSError as error:
        tree.faults.append(
            tree.fault((), "E004", f"cannot be read: {error.strerror}", "name a file you can read")
        )
        return tree
    except NotRegular as error:
        tree.faults.append(
            tree.fault(
                (), "E004", f"cannot be read: {error}", "write it into a file, and name that"
            )
        )
        return tree
    except UnicodeDecodeError as error:
        tree.marks[()] = (str(path), error.object[: error.start].count(b"\n") + 1)
        tree.faults.append(tree.fault((), "E004", "is not UTF-8 text", "save it as UTF-8"))
        return tree
    except _TooDeep as error:
        tree.marks[()] = (str(path), error.line)
        message = f"lists and maps stand {MOST_DEEP} deep in each other"
        tree.faults.append(tree.fault((), "E003", message, "is a bracket too much?"))
        return tree
    except (
        yaml.reader.ReaderError
        # Its text is there, with a character that YAML forbids.
    ) as error:
        line = path.read_text(encoding="utf-8").count("\n", 0, error.position) + 1
        tree.marks[()] = (str(path), line)
        message = f"not YAML: the character U+{_number(error.character):04X}"
        tree.faults.append(tree.fault((), "E001", message, "remove it"))
        return tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        tree.marks[()] = (str(path), mark.line + 1 if mark else 1)
        what = getattr(error, "problem", None) or "no document"
        tree.faults.append(
            tree.fault((), "E001", f"not YAML: {what}", "check indentation and quotes")
        )
        return tree
    tree.data = _value(node, (), tree, str(path)) if node else {}
    return tree


class _TooDeep(Exception):
    """Nobody wrote this, and to read it would need as deep a stack."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Text as nodes: an alias is one too, so that its place is known, and nothing is too deep."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    _deep = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, as `Composer` makes it."""
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(ALIAS, event.anchor, event.start_mark, event.end_mark)
        self._deep += 1
        if self._deep > MOST_DEEP:
            ahead = self.peek_event()  # type: ignore[no-untyped-call]
            raise _TooDeep(ahead.start_mark.line + 1)
        node = super().compose_node(parent, index)
        self._deep -= 1
        return node


def _whole(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


# YAML 1.2's core schema, https://yaml.org/spec/1.2.2/#103-core-schema. 1.1, which the library reads
# by
# itself, has `010` for eight, `1:30` for ninety and `no` for false.
CORE: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    f"tag:yaml.org,2002:{name}": (re.compile(rf"(?:{form})\Z"), read_as)
    for name, form, read_as in (
        ("null", r"~|null|Null|NULL|", lambda _: None),
        ("bool", r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _whole),
        ("float", (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|"
                  r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), _real),
    )
}  # fmt: skip
for _tag, (_form, _) in CORE.items():
    _Loader.add_implicit_resolver(_tag, _form, None)


def _number(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _value(node: yaml.Node, path: At, tree: Tree, file: str) -> Any:
    tree.marks[path] = (file, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, tree)
    if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        tree.faults.append(_tagged(node, path, tree))
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree, file)
    return [_value(item, (*path, index), tree, file) for index, item in enumerate(node.value)]


def _scalar(node: yaml.ScalarNode, path: At, tree: Tree) -> Any:
    text: str = node.value
    if node.tag == "tag:yaml.org,2002:str":
        return _text(text, path, tree)
    if node.tag == ALIAS:
        tree.faults.append(tree.fault(path, "E003", "aliases are not allowed", "write it out"))
        return None
    form, read_as = CORE.get(node.tag, (None, str))
    if form is None or not form.match(text):
        tree.faults.append(_tagged(node, path, tree))
        return None
    try:
        value = read_as(text)
        if not isinstance(value, float) or math.isfinite(value):
            return value
    # A number of thousands of digits.
    except ValueError:
        pass
    message = f"{text if len(text) < 60 else text[:57] + '…'} is no number to reckon with"
    tree.faults.append(tree.fault(path, "E010", message, "a number, or leave the key out"))
    return None


def _text(text: str, path: At, tree: Tree) -> str:
    r"""A text that can be written anywhere: not so "\ud800", half a character."""
    whole = text.encode(errors="replace").decode()
    if whole != text:
        message = f"{whole[:60]!r} has half a character"
        tree.faults.append(tree.fault(path, "E010", message, "write it out"))
    return whole


def _tagged(node: yaml.Node, path: At, tree: Tree) -> Fault:
    return tree.fault(path, "E003", f"the tag {node.tag} is not allowed", "leave it out")


def _mapping(node: yaml.MappingNode, path: At, tree: Tree, file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == ALIAS:
            here = (*path, "?")
            tree.marks[here] = (file, key_node.start_mark.line + 1)
            message = "a list, a map or an alias is no key"
            tree.faults.append(tree.fault(here, "E003", message, "a word, then `:`"))
            continue
        key = _text(key_node.value, path, tree)
        here = (*path, key)
        if key in found:
            tree.marks[here] = (file, key_node.start_mark.line + 1)
            tree.faults.append(
                tree.fault(here, "E002", "this key stands here twice", "keep one of them")
            )
        found[key] = _value(value_node, here, tree, file)
        tree.marks[here] = (file, key_node.start_mark.line + 1)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)


def dotted(path: At) -> str:
    """A place as people write it: `slots.std.cores`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
