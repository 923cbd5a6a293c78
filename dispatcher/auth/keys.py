"""The keys of one dispatcher, in a file that only its user can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from ailurus.naming import name_once
from ailurus.protocol.errors import AilurusError
from ailurus.regular import NotRegular, open_regular


class SigningKey(Struct, frozen=True):
    """An EC P-256 private key in PEM. `kid` names it in tokens."""

    kid: str
    pem: str


class Keys(Struct, frozen=True, kw_only=True):
    """What makes this dispatcher this one. The first key signs, all of them verify."""

    issuer: str
    keys: tuple[SigningKey, ...]
    # Report keys of attempts are derived from it.
    secret: str

    @property
    def signing(self) -> SigningKey:
        return self.keys[0]


def made() -> Keys:
    """Fresh keys."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Keys(
        issuer=f"urn:ailurus:{secrets.token_hex(8)}",
        keys=(SigningKey(kid=secrets.token_hex(8), pem=pem),),
        secret=secrets.token_hex(32),
    )


def keep(path: Path, text: bytes) -> bool:
    """Write a secret that only this user can read. False if the file is already there: it stays.

    Complete or absent, whatever is killed when: the file appears as a finished one that is given
    its name. Raises AilurusError if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        name_once(str(draft), str(path))
    except FileExistsError:
        return False
    except OSError as error:
        raise AilurusError(
            f"cannot write {path}: {error.strerror}", remedy="choose a directory you may write to"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return True


def replace(path: Path, kept: Keys) -> None:
    """Write other keys in place of those in `path`: the old ones or the new ones, never half of
    them. Raises AilurusError if they cannot be written, OSError if they cannot take their place."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        keep(fresh, msgspec.json.encode(kept))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read(path: Path) -> Keys:
    """The keys in `path`. Raises AilurusError: also for a file that others could have read or
    changed."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except NotRegular as error:
        raise AilurusError(str(error), remedy="restore the file") from None
    except OSError as error:
        raise AilurusError(
            f"cannot read the keys {path}: {error.strerror}", remedy="run `dispatcher init` first"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise AilurusError(
            f"others may read the keys {path}", remedy=f"chmod 600 {path}, then make new keys"
        )
    try:
        return msgspec.json.decode(text, type=Keys)
    except msgspec.MsgspecError as error:
        raise AilurusError(f"{path} holds no keys: {error}", remedy="restore the file") from None
