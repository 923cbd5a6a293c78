"""A site file and the profiles it extends as one tree, in which every value knows its file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

PROFILES = Path(__file__).parent.parent / "site_configs" / "profiles"
At = tuple[str | int, ...]
"""Where a value stands: ("slots", "std", "cores")."""


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

    def fault(self, path: At, rule: str, message: str, remedy: str = "") -> Fault:
        """A fault at the value, or else at the nearest thing around it that exists."""
        at = path
        while at and at not in self.marks:
            at = at[:-1]
        file, line = self.marks.get(at, ("", 0))
        return Fault(
            file=file, line=line, key=_dotted(path), message=message, remedy=remedy, rule=rule
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
            tree.faults.append(one.fault(("extends",), "E005", "extends itself"))
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
    except OSError:  # a name that is too long for one
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
        text = path.read_text()
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                mark: Any = event.start_mark
                tree.marks[()] = (str(path), mark.line + 1)
                tree.faults.append(
                    tree.fault((), "E003", "aliases are not allowed", "write it out")
                )
                return tree
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        tree.faults.append(tree.fault((), "E004", f"cannot be read: {error.strerror}"))
        return tree
    except UnicodeDecodeError:
        tree.faults.append(tree.fault((), "E004", "is not UTF-8 text"))
        return tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        tree.marks[()] = (str(path), mark.line + 1 if mark else 1)
        what = getattr(error, "problem", None) or "not YAML"
        tree.faults.append(
            tree.fault((), "E001", f"not YAML: {what}", "check indentation and quotes")
        )
        return tree
    tree.data = _value(node, (), tree, str(path)) if node else {}
    return tree


def _value(node: yaml.Node, path: At, tree: Tree, file: str) -> Any:
    tree.marks[path] = (file, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), tree, file) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree, file)
    try:
        return yaml.SafeLoader("").construct_object(node)
    except yaml.YAMLError:
        tree.faults.append(
            tree.fault(path, "E003", f"the tag {node.tag} is not allowed", "plain values")
        )
        return None
    except ValueError as error:  # a date that is none, a number of thousands of digits
        tree.faults.append(tree.fault(path, "E003", f"no value: {error}", "quotes make it a text"))
        return None


def _mapping(node: yaml.MappingNode, path: At, tree: Tree, file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        here = (*path, key)
        if key in found:
            tree.marks[here] = (file, key_node.start_mark.line + 1)
            tree.faults.append(tree.fault(here, "E002", "this key stands here twice"))
        found[key] = _value(value_node, here, tree, file)
        tree.marks[here] = (file, key_node.start_mark.line + 1)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)


def _dotted(path: At) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
