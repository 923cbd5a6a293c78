"""Messages between the dispatcher and the process of its catalogue: a line of JSON each way.

`answer` is the whole of what that process does with a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.trees import MOST_FILES
from dispatcher.ports import (
    Catalogue,
    CatalogueUnavailable,
    Contents,
    Fault,
    NewFile,
    NotDone,
    ReplicationRule,
)


class Begin(Struct, frozen=True, kw_only=True, tag=True):
    """The first line: which plugin, and its options as the operator wrote them."""

    kind: str
    options: dict[str, Any] = {}


class Register(Struct, frozen=True, kw_only=True, tag=True):
    """Let the catalogue know files, with all that belongs to them."""

    files: tuple[NewFile, ...]


class Close(Struct, frozen=True, kw_only=True, tag=True):
    """Close data sets."""

    datasets: tuple[str, ...]


class Resolve(Struct, frozen=True, kw_only=True, tag=True):
    """Tell what an identifier names, with all of its files."""

    did: str


class Describe(Struct, frozen=True, kw_only=True, tag=True):
    """Tell what an identifier names, where it is and what keeps it."""

    did: str


class AddRule(Struct, frozen=True, kw_only=True, tag=True):
    """Have what an identifier names kept at storages."""

    did: str
    where: str
    lifetime_s: int | None = None


class ListFiles(Struct, frozen=True, kw_only=True, tag=True):
    """Tell of the files of an identifier, in the order of their names, those behind one."""

    did: str
    after: str = ""
    most: int = 500


class Stage(Struct, frozen=True, kw_only=True, tag=True):
    """Have files kept at storages, and say which are there."""

    where: str
    files: tuple[str, ...] = ()
    """Those that are to be kept there."""
    look: tuple[str, ...] = ()
    """Those that were said before."""
    let_go: tuple[str, ...] = ()
    """Those that need not be kept there any more."""


class Staged(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `Stage`."""

    here: dict[str, str] = {}
    """Files that can be read there, each with its URL, or blank."""
    refused: tuple[Fault, ...] = ()
    """By their places in `files`."""
    kept: tuple[Fault, ...] = ()
    """By their places in `let_go`."""
    problem: str = ""
    """What is known of one that does not come."""


class Resolved(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `Resolve` and `ListFiles`; None: the catalogue knows no such identifier."""

    contents: Contents | None = None


class Description(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `Describe`."""

    contents: Contents | None = None
    """With `LISTED` of its files; None: the catalogue knows no such identifier."""
    files: int = 0
    """How many there are."""
    replicas: dict[str, tuple[str, ...]] = {}
    """Of the files listed."""
    rules: tuple[ReplicationRule, ...] = ()


class RuleAdded(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `AddRule`."""

    rule_id: str


class Faults(Struct, frozen=True, kw_only=True, tag=True):
    """What could not be done; all else is done."""

    faults: tuple[Fault, ...] = ()


class NotNow(Struct, frozen=True, kw_only=True, tag=True):
    """The catalogue cannot be asked."""

    reason: str
    remedy: str = ""


Request = Register | Close | Resolve | Describe | AddRule | ListFiles | Stage
Answer = Faults | Resolved | Description | RuleAdded | Staged | NotNow
LISTED = 1000
"""Files of a description."""
LONGEST = 16 * 1024 * 1024
"""Bytes of a line."""


def answer(catalogue: Catalogue, request: Request) -> Answer:
    """Do what is asked. Whatever it is refused is in the answer."""
    try:
        match request:
            case Register(files=files):
                return Faults(faults=tuple(_registered(catalogue, files)))
            case Close(datasets=datasets):
                return Faults(faults=tuple(catalogue.close(datasets)))
            case Resolve(did=did):
                return _resolved(catalogue, did)
            case Describe(did=did):
                return _described(catalogue, did)
            case ListFiles(did=did, after=after, most=most):
                return Resolved(contents=catalogue.listing(did, after, most))
            case Stage():
                return _staged(catalogue, request)
            case AddRule(did=did, where=where, lifetime_s=lifetime_s):
                return RuleAdded(rule_id=catalogue.add_rule(did, where, lifetime_s))
    except NotDone as refused:
        return Faults(faults=(refused.fault,))
    except CatalogueUnavailable as away:
        return NotNow(reason=away.reason, remedy=away.remedy)


def _registered(catalogue: Catalogue, files: Sequence[NewFile]) -> list[Fault]:
    """Step by step, each with the files for which the one before went well."""
    faults: dict[int, Fault] = {}
    steps: tuple[Callable[[Sequence[NewFile]], Sequence[Fault]], ...] = (
        catalogue.register,
        catalogue.attach,
        catalogue.keep,
    )
    for step in steps:
        left = [file for file in files if file.key not in faults]
        if left:
            faults.update(_by_key(step(left)))
    return list(faults.values())


def _resolved(catalogue: Catalogue, did: str) -> Resolved | Faults:
    contents = catalogue.resolve(did, MOST_FILES)
    # A longer answer than a line takes would end the process, again and again.
    if contents is not None and contents.more:
        count = len(contents.files) + contents.more
        reason = f"{did} has {count} files, and a job {MOST_FILES} at most"
        remedy = "make several jobs of it, or a task over the data set"
        return Faults(faults=(Fault(key=0, reason=reason, remedy=remedy),))
    return Resolved(contents=contents)


def _staged(catalogue: Catalogue, ask: Stage) -> Staged:
    refused = catalogue.stage(ask.files, ask.where) if ask.files else ()
    not_now = {ask.files[fault.key] for fault in refused}
    wanted = [name for name in (*ask.files, *ask.look) if name not in not_now]
    here = catalogue.staged(wanted, ask.where) if wanted else {}
    late = next((name for name in ask.look if name not in here), None)
    problem = "" if late is None else _problem(catalogue, late, ask.where)
    kept = catalogue.let_go(ask.let_go, ask.where) if ask.let_go else ()
    return Staged(here=dict(here), refused=tuple(refused), kept=tuple(kept), problem=problem)


def _problem(catalogue: Catalogue, name: str, where: str) -> str:
    """What a rule says about a file that does not come; blank: nothing is wrong."""
    for rule in catalogue.rules_on(name):
        if rule.where == where and rule.stuck:
            return f"the rule for {name} at {where} is {rule.state}: {rule.problem}"[:500]
    return ""


def _described(catalogue: Catalogue, did: str) -> Description:
    contents = catalogue.resolve(did, LISTED)
    if contents is None:
        return Description()
    names = [file.name for file in contents.files]
    replicas = catalogue.replicas(names) if names else {}
    return Description(
        contents=contents,
        files=len(names) + contents.more,
        replicas={name: tuple(replicas.get(name, ())) for name in names},
        rules=tuple(catalogue.rules_on(did)),
    )


def _by_key(faults: Sequence[Fault]) -> Mapping[int, Fault]:
    return {fault.key: fault for fault in faults}


encode = msgspec.json.Encoder().encode
decode_begin = msgspec.json.Decoder(Begin).decode
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode
