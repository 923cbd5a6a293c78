"""Credentials of users, as functions of a transaction."""

from __future__ import annotations

from collections.abc import Iterable

from ailurus.protocol.messages import CredentialKind, CredentialRow
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records

MOST = 100
"""How many a user may have."""


def rows(tx: Tx, owner: str) -> list[CredentialRow]:
    """A user's credentials, as people may see them."""
    return [
        CredentialRow(
            name=one.name,
            kind=CredentialKind(one.kind),
            expires=one.expires,
            subject=one.subject,
            changed=one.changed,
        )
        for one in records.credentials(tx, owner)
    ]


def keep(tx: Tx, owner: str, row: CredentialRow, sealed: str) -> None:
    """Keep a credential, in place of one of that name. Raises Rejected if the user has too many."""
    names = {one.name for one in records.credentials(tx, owner)}
    if row.name not in names and len(names) >= MOST:
        raise Rejected(
            422,
            f"a user may have {MOST} credentials",
            field="name",
            remedy="`dispatcher credential forget NAME` those that no job needs",
        )
    tx.run(
        "credential.keep",
        owner=owner,
        name=row.name,
        kind=row.kind.value,
        subject=row.subject,
        expires=row.expires,
        now=row.changed,
        sealed=sealed,
    )


def forget(tx: Tx, owner: str, names: Iterable[str]) -> None:
    """Forget credentials; one that is not there is forgotten already."""
    for name in names:
        tx.run("credential.forget", owner=owner, name=name)
