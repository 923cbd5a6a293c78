"""Tokens of the WLCG JWT profile, made and checked with the store's own keys.

A token is an ES256 JWT. Its header must be exactly `{alg, typ, kid}` with our algorithm and a key
that is ours: nothing in a token ever chooses how it is checked. Checking costs 0.1 ms, so the
answer is kept by the token's hash until it expires.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.api import Route, Scope
from ailurus.protocol.messages import Token
from dispatcher.auth.caller import ANONYMOUS, BadToken, Caller
from dispatcher.auth.keys import Keys
from dispatcher.auth.oidc import Foreign
from dispatcher.refusal import Rejected

# Characters of a token.
LONGEST = 8192
# No token of ours lives longer; so long it is remembered that one was revoked.
LONGEST_S = 366 * 86_400.0
# Tokens checked and not yet expired.
REMEMBERED = 50_000
USER = frozenset({Scope.READ, Scope.CREATE, Scope.MODIFY, Scope.CANCEL, Scope.ADMIN})
# And `ailurus.edge:SITE`, `ailurus.relay:SITE`; tokens of all other scopes are made by the rules.
ON_REQUEST = USER | {Scope.PILOT, Scope.METRICS}
# Each with `:SITE`.
OF_SITE = (Scope.EDGE, Scope.RELAY)
_SITE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,199}")


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["ES256"]
    kid: str
    typ: Literal["JWT"]


class _Claims(Struct, frozen=True, kw_only=True):
    """The profile's claims, all required, and ours."""

    ver: Literal["1.0"] = msgspec.field(name="wlcg.ver")
    iss: str
    sub: str
    aud: str
    exp: int
    nbf: int
    # Its fraction of a second distinguishes a new token from one that was revoked just before.
    iat: float
    jti: str
    scope: str
    site: str = ""
    worker_id: int = 0
    intent: str = ""
    index: int = 0
    epoch: int = 0
    queue: str = ""
    groups: tuple[str, ...] = msgspec.field(default=(), name="wlcg.groups")
    # As `Caller.of`.
    of: tuple[str, ...] = ()


class Issuer:
    """Makes and checks the tokens of one dispatcher. `clock` is seconds since 1970."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[bytes, Caller] = {}
        self._refused: dict[str, float] = {}
        self._on_revocation: list[Callable[[], None]] = []
        self.foreign: Foreign | None = None
        self.take(keys)
        self.tag = sha256(keys.issuer.encode()).hexdigest()[:8]
        """A short name for this dispatcher, so that cookies of two on one host do not mix."""

    def now(self) -> float:
        """Seconds since 1970, as all expiry is judged."""
        return self._clock()

    def trust(self, foreign: Foreign | None) -> None:
        """Take the tokens of other issuers too, from now on."""
        self.foreign = foreign
        self._known.clear()

    def take(self, keys: Keys) -> None:
        """Use these keys from now on. A token whose key is not among them is no longer good."""
        signing = _private(keys.signing.pem)
        public = {key.kid: _private(key.pem).public_key() for key in keys.keys}
        self._keys, self._signing = keys, signing
        self._public: dict[str, EllipticCurvePublicKey] = public
        self._known.clear()

    def mint(
        self,
        subject: str,
        scopes: Iterable[str],
        lifetime_s: float,
        **claims: str | int | Sequence[str],
    ) -> Token:
        """A token for `subject`; `claims` are those of a worker or of a planned one."""
        now = self._clock()
        expires = int(now) + max(1, int(min(lifetime_s, LONGEST_S)))
        content = {
            "wlcg.ver": "1.0",
            "iss": self._keys.issuer,
            "aud": self._keys.issuer,
            "sub": subject,
            "scope": " ".join(scopes),
            "iat": now,
            "nbf": int(now),
            "exp": expires,
            "jti": secrets.token_hex(8),
            **claims,
        }
        headers = {"kid": self._keys.signing.kid}
        text = jwt.encode(content, self._signing, algorithm="ES256", headers=headers)
        self._remember(_digest(text), _caller(msgspec.convert(content, _Claims)))
        return Token(token=text, expires=float(expires))

    def issue(
        self,
        subject: str,
        scopes: Iterable[str],
        lifetime_s: float,
        groups: Sequence[str] = (),
        by: Caller = ANONYMOUS,
    ) -> Token:
        """A token on an administrator's request: only scopes that a person, an edge or a pilot
        started by hand may have. It ends with the token of the request, in case that was stolen,
        and with no other token of the administrator. Raises Rejected for another scope."""
        for nr, scope in enumerate(requested := tuple(scopes)):
            kind, colon, site = scope.partition(":")
            edge = kind in OF_SITE and _SITE.fullmatch(site)
            if not edge and (colon or scope not in ON_REQUEST):
                raise Rejected(
                    422,
                    f"no token can be asked for with scope {scope!r}",
                    field=f"scopes[{nr}]",
                    remedy=f"known: {', '.join(sorted(ON_REQUEST))}, {Scope.EDGE}:SITE, {Scope.RELAY}:SITE",
                )
        if len({scope.partition(":")[2] for scope in requested if scope.startswith(OF_SITE)}) > 1:
            raise Rejected(
                422,
                "an edge or a relay has one site",
                field="scopes",
                remedy="make a token for each",
            )
        # PanDA's client reads its user's name in the token.
        claims: dict[str, Any] = {"name": subject, "preferred_username": subject}
        if groups:
            claims["wlcg.groups"] = tuple(groups)
        if by is not ANONYMOUS:
            claims["of"] = tuple(name for name in by.lineage if name.startswith("id:"))
        return self.mint(subject, requested, lifetime_s, **claims)

    def caller(self, token: str) -> Caller:
        """Who holds `token`. Raises BadToken."""
        digest = _digest(token)
        caller = self._known.get(digest)
        if caller is None:
            caller = self._checked(token)
            self._remember(digest, caller)
        if self._clock() >= caller.expires:
            self._known.pop(digest, None)
            raise BadToken("the token has expired")
        return caller

    def _remember(self, digest: bytes, caller: Caller) -> None:
        """Check a token no more until it expires: it is good, or of our own making."""
        if len(self._known) >= REMEMBERED:
            # The oldest: it can be checked again.
            del self._known[next(iter(self._known))]
        self._known[digest] = caller

    def refuse(self, refused: Iterable[tuple[str, float]]) -> None:
        """Refuse tokens made before a time, by `id:JTI` or `sub:SUBJECT`. See `Revocations`."""
        self._refused.update(refused)
        self._known.clear()
        for callback in self._on_revocation:
            callback()

    def on_revocation(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever tokens that were good have been revoked."""
        self._on_revocation.append(callback)

    def revoked(self, caller: Caller) -> bool:
        """Whether the token of `caller`, or one that it came of, has been refused since it was
        checked."""
        return any(caller.made < self._refused.get(name, 0.0) for name in caller.names)

    def _checked(self, token: str) -> Caller:
        if len(token) > LONGEST or token.count(".") != 2:
            raise BadToken("this is not a token")
        caller, valid_from, made = self._ours(token)
        if self._clock() < valid_from:
            raise BadToken("the token is not valid yet")
        caller = replace(caller, made=made)
        if self.revoked(caller):
            raise BadToken("the token was revoked")
        return caller

    def _ours(self, token: str) -> tuple[Caller, float, float]:
        """The caller, from when on the token is good, and when it was made. Raises BadToken."""
        try:
            given = jwt.get_unverified_header(token)
            if self.foreign is not None and given.get("kid") not in self._public:
                return self.foreign.checked(token)
            header = msgspec.convert(given, _Header)
            content: dict[str, Any] = jwt.decode(
                token,
                self._public[header.kid],
                algorithms=["ES256"],
                audience=self._keys.issuer,
                issuer=self._keys.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            claims = msgspec.convert(content, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, KeyError, ValueError, RecursionError):
            raise BadToken("this is not a token of this dispatcher") from None
        return _caller(claims), max(claims.nbf, claims.iat), claims.iat


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _caller(claims: _Claims) -> Caller:
    granted, site = set(), claims.site
    for scope in claims.scope.split():
        kind, colon, argument = scope.partition(":")
        if kind in OF_SITE and colon:
            granted.add(kind)
            site = argument
        else:
            granted.add(scope)
    return Caller(
        subject=claims.sub,
        scopes=frozenset(granted),
        expires=float(claims.exp),
        token_id=claims.jti,
        site=site,
        worker_id=claims.worker_id,
        intent=claims.intent,
        index=claims.index,
        epoch=claims.epoch,
        queue=claims.queue,
        groups=claims.groups,
        made=claims.iat,
        of=claims.of,
    )


def permitted(route: Route, caller: Caller) -> bool:
    """Whether the caller's scopes open the route. The one rule of who may call what."""
    if route.scope is None or route.scope in caller.scopes:
        return True
    # An admin may run a pilot by hand.
    if route.scope in USER or route.scope is Scope.PILOT:
        return Scope.ADMIN in caller.scopes or (
            route.name == "register" and Scope.BOOTSTRAP in caller.scopes
        )
    return False


def authorise(route: Route, caller: Caller) -> None:
    """Raise Rejected unless `permitted`."""
    if permitted(route, caller):
        return
    if caller is ANONYMOUS:
        raise BadToken("the request has no token")
    raise Rejected(
        403,
        f"the token lacks scope {route.scope}",
        remedy="ask an administrator for one: dispatcher token --scope …",
    )


def _private(pem: str) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise TypeError("the key file holds a key of another kind than ES256")
    return key
