"""Sessions of browsers: signing in with a token, and requests from our own page.

A cookie is sent by the browser whoever made it ask. So a request that relies on one must come from
our own page: its Origin is this host, Fetch Metadata says the same, and what changes something
carries a header that another page cannot set without asking first. Whatever the request relies on,
its Host must be an address or a name of ours, or a foreign name could be pointed at us (DNS
rebinding).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from ailurus.protocol.api import Scope
from ailurus.protocol.errors import AilurusError
from dispatcher.auth.caller import BadToken
from dispatcher.auth.tokens import USER, Issuer
from dispatcher.door.http import Headers
from dispatcher.refusal import Rejected

LONGEST_S = 12 * 3600.0
OURS = b"x-ailurus"
_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]+\Z")
_PORT = re.compile(r":\d{1,5}$")
_REMEMBERED = 1000


class Public(Struct, frozen=True):
    """The address by which browsers know us where something in front of us ends TLS: told by the
    operator, for what a request says of its way here anybody could have written."""

    # Without a slash at its end; blank: there is none.
    url: str = ""
    origin: bytes = b""
    host: str = ""

    @staticmethod
    def of(url: str) -> Public:
        """Raises AilurusError for what is no address of a console."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or not plain:
            raise AilurusError(
                f"{url!r} is no address of a console",
                field="--public-url",
                remedy="as browsers have it: https://NAME, with a path if there is one",
            )
        host = parts.hostname
        usual = {"http": 80, "https": 443}[parts.scheme]
        shown = f"[{host}]" if ":" in host else host
        # As browsers write an origin.
        end = "" if port in (None, usual) else f":{port}"
        origin = f"{parts.scheme}://{shown}{end}"
        return Public(f"{origin}{parts.path.rstrip('/')}", origin.encode(), shown)

    def is_asked(self, headers: Headers) -> bool:
        """Whether a request comes from a page that this address served."""
        return bool(self.origin) and headers.get(b"origin", b"").lower() == self.origin


NOT_TOLD = Public()


class AnsweredHosts:
    """Which Host headers are ours: localhost, any address, and the names given."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = {"localhost", *(name.lower() for name in names)}
        self._known: set[bytes] = set()

    def check(self, host: bytes) -> None:
        """Raise Rejected unless `host` is ours."""
        if host in self._known:
            return
        name = _PORT.sub("", host.decode("latin-1").lower())
        if name not in self._names and not _address(name):
            raise Rejected(
                421,
                "this is not a host name of the dispatcher",
                field="Host",
                remedy="use its address, or start it with --host-name NAME; behind a proxy, with "
                "--public-url https://NAME",
            )
        if len(self._known) < _REMEMBERED:
            self._known.add(host)


def _address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") else name)
    except ValueError:
        return False
    return True


def begin(issuer: Issuer, token: str, *, secure: bool) -> bytes:
    """The Set-Cookie of a session for the holder of `token`, with a token of its own. Raises
    BadToken, and Rejected if the token may not read."""
    caller = issuer.caller(token)
    if not caller.scopes & {Scope.READ, Scope.ADMIN}:
        raise Rejected(403, f"the token lacks scope {Scope.READ}", field="token")
    lifetime = min(LONGEST_S, caller.expires - issuer.now())
    minted = issuer.mint(caller.subject, sorted(caller.scopes & USER), lifetime, of=caller.lineage)
    return _cookie(issuer, minted.token, int(lifetime), secure=secure)


def end(issuer: Issuer, *, secure: bool) -> bytes:
    """The Set-Cookie that takes a session's away."""
    return _cookie(issuer, "", 0, secure=secure)


def token_of(
    issuer: Issuer, headers: Headers, *, method: str, scheme: str, public: Public = NOT_TOLD
) -> str | None:
    """The token that a request comes with, by header or by cookie. Raises BadToken for another kind
    of header, and Rejected for a cookie that another page sent."""
    given = headers.get(b"authorization")
    if given is not None:
        kind, _, token = given.decode("latin-1").partition(" ")
        if kind.lower() != "bearer":
            raise BadToken("the Authorization header is not `Bearer TOKEN`")
        return token.strip()
    token = kept(issuer, headers)
    if token:
        same_origin(headers, method=method, scheme=scheme, public=public)
    return token or None


def same_origin(headers: Headers, *, method: str, scheme: str, public: Public = NOT_TOLD) -> None:
    """Raise Rejected unless a browser's request comes from our own page."""
    host = headers.get(b"host", b"").lower()
    origin = headers.get(b"origin")
    ours = scheme.encode() + b"://" + host
    # By that name we are reached in one way.
    if host and public.origin.endswith(b"://" + host):
        ours = public.origin
    if origin is not None and origin.lower() != ours and not public.is_asked(headers):
        sent = origin[:200].decode("latin-1")
        raise Rejected(
            403,
            "the request comes from another origin",
            field="Origin",
            detail=f"it comes from {sent}, and this dispatcher is {ours[:200].decode('latin-1')}",
            remedy="if that is its address behind a proxy, start it with --public-url "
            + (sent if _ORIGIN.match(sent) else "URL"),
        )
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        raise Rejected(403, "the request comes from another site", field="Sec-Fetch-Site")
    if method != "GET" and headers.get(OURS) != b"1":
        raise Rejected(
            403, "a page must say that it means it", field="X-Ailurus", remedy="send X-Ailurus: 1"
        )


def _name(issuer: Issuer) -> str:
    return f"ailurus_{issuer.tag}"


def _cookie(issuer: Issuer, value: str, lifetime: int, *, secure: bool) -> bytes:
    end = "; Secure" if secure else ""
    return (
        f"{_name(issuer)}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Strict{end}"
    ).encode()


def kept(issuer: Issuer, headers: Mapping[bytes, bytes]) -> str:
    """The token of the request's session, or a blank."""
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == _name(issuer):
            return value
    return ""
