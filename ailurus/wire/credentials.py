"""What a client shows to a server, its token, and what it believes of one, its certificate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import urllib3

from ailurus.protocol.errors import AilurusError
from ailurus.wire.connection import POOLS, authorities


class TokenFile:
    """A token from a file, which is read again when the dispatcher has refused the token."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text: str | None = None

    def __call__(self, *, fresh: bool = False) -> str:
        if self._text is None or fresh:
            try:
                self._text = self._read()
            except AilurusError:
                if self._text is None:
                    # The file is being rewritten: keep the token that we have.
                    raise
        return self._text

    def _read(self) -> str:
        remedy = "give another with --token-file or AILURUS_TOKEN_FILE"
        try:
            text = self.path.read_text("ascii").strip()
        except OSError as error:
            what = f"cannot read the token file {self.path}: {error.strerror}"
            raise AilurusError(what, remedy=remedy) from None
        except UnicodeDecodeError:
            text = ""
        if not text or not text.isprintable() or " " in text:
            raise AilurusError(f"there is no token in {self.path}", remedy=remedy)
        return text


def fixed_token(text: str) -> Callable[..., str]:
    """A token that is kept in memory."""
    return lambda fresh=False: text


class Trust(msgspec.Struct, frozen=True):
    """What proves to a client that a server is its dispatcher; by default this machine's
    authorities."""

    # A file with certificate authorities in PEM, which replace the machine's.
    ca: str = ""
    # The SHA-256 of its certificate in hexadecimal: no other is accepted, and no authority is
    # needed.
    pin: str = ""

    @staticmethod
    def of_options(ca: str | None, pin: str | None, environment: Mapping[str, str]) -> Trust:
        """From options, else from AILURUS_CA and AILURUS_PIN. Raises AilurusError."""
        ca = ca or environment.get("AILURUS_CA", "")
        pin = (pin or environment.get("AILURUS_PIN", "")).lower().removeprefix("sha256:")
        pin = pin.replace(":", "")
        if pin and not re.fullmatch("[0-9a-f]{64}", pin):
            raise AilurusError(
                f"{pin!r} is no SHA-256 of a certificate",
                field="--pin",
                remedy="openssl x509 -in CERT -noout -fingerprint -sha256",
            )
        if ca and not Path(ca).is_file():
            raise AilurusError(f"there is no file {ca}", field="--ca", remedy="name a PEM file")
        return Trust(ca, pin)

    def pool(self, connections: int) -> urllib3.PoolManager:
        """A pool of connections that check this."""
        if self.pin:
            # The fingerprint is checked instead of a signature.
            pool = urllib3.PoolManager(
                maxsize=connections,
                retries=False,
                assert_fingerprint=self.pin,
                cert_reqs="CERT_NONE",
                assert_hostname=False,
            )
        else:
            pool = urllib3.PoolManager(
                maxsize=connections, retries=False, ca_certs=self.ca or authorities()
            )
        pool.pool_classes_by_scheme = POOLS
        return pool
