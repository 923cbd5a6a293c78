"""`dispatcher keys`: change what signs tokens, without anybody being shut out."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

import msgspec

from ailurus.output import Output
from ailurus.protocol.messages import Answer
from dispatcher.auth import keys
from dispatcher.auth.keys import Keys
from dispatcher.cli import place
from dispatcher.cli.exits import DATA, CommandError


class KeyList(Answer):
    signs: str
    verify: tuple[str, ...]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("list", "add", "use", "rotate", "retire"),
        help="add: a key that verifies; use: let it sign; rotate: both; retire: tokens that it "
        "signed are refused",
    )
    parser.add_argument("kid", nargs="?", default="", help="the key's name, for use and retire")
    place.arguments(parser)
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def main(args: Namespace, out: Output) -> int:
    """Change the file of keys as a whole; `kill -HUP` lets a running dispatcher take it."""
    path = place.place_of(args.store, args.keys).keys
    kept = keys.read(path)
    changed = changed_by(args.action, args.kid, kept)
    if changed is not kept:
        keys.replace(path, changed)
        sys.stderr.write("next: kill -HUP the dispatcher, on every host with these keys\n")
    signs, *verify = (key.kid for key in changed.keys)
    if out.as_json:
        out.document(KeyList(signs=signs, verify=tuple(verify)))
    else:
        out.table(("key", "does"), [(signs, "signs"), *((kid, "verifies") for kid in verify)])
    return 0


def changed_by(action: str, kid: str, kept: Keys) -> Keys:
    """The keys after an action. Raises CommandError."""
    if action == "list":
        return kept
    if action in ("add", "rotate"):
        fresh = keys.made().keys
        both = (*fresh, *kept.keys) if action == "rotate" else (*kept.keys, *fresh)
        return msgspec.structs.replace(kept, keys=both)
    named = [key for key in kept.keys if key.kid == kid]
    others = tuple(key for key in kept.keys if key.kid != kid)
    if not named:
        known = ", ".join(key.kid for key in kept.keys)
        raise CommandError(DATA, f"there is no key {kid!r}", field="kid", remedy=f"known: {known}")
    if action == "use":
        return msgspec.structs.replace(kept, keys=(*named, *others))
    if not others:
        raise CommandError(
            DATA, "nothing would sign without this key", field="kid", remedy="rotate first"
        )
    return msgspec.structs.replace(kept, keys=others)
