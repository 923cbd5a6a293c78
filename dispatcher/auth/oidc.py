"""Tokens of other issuers: who may sign, for which audience, and which scopes that gives here.

    issuers:
      - issuer: https://iam.example.org/
        audience: https://dispatcher.example.org
        name: iam                       # its users are `iam:SUBJECT` here; default: its host
        user: preferred_username        # the claim that names a user; default: sub
        groups: groups                  # the claim that names a user's groups; default: wlcg.groups
        scopes: [compute.read, compute.create, compute.cancel]   # honoured as the token says them
        rules:
          - {claim: wlcg.groups, has: /atlas/pilots, scopes: [ailurus.pilot]}
          - {claim: sub, has: 8f2c, scopes: [ailurus.admin]}
          - {scopes: [compute.read]}    # whoever has a good token

No content of a token chooses how it is checked: the issuer must be one of these, the algorithm must
be allowed and fit the key, and the key is one of the issuer's own, fetched from where its discovery
document says. Keys are fetched each hour, and for a key that is not known at most once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jwt
import msgspec
from msgspec import Meta, Struct

from ailurus import fetch
from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol.api import Scope
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import explained
from dispatcher.auth.caller import BadToken, Caller

HOURLY_S = 3600.0
AGAIN_S = 60.0
FETCH_S = 10.0
# Groups of a user that are looked at.
MOST_GROUPS = 100
# Bytes of a document.
LONGEST = 1024 * 1024
# By type of key; nothing symmetric, whatever the policy allows.
ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
_GRANTS = frozenset(Scope) - {Scope.WORKER, Scope.BOOTSTRAP, Scope.EDGE}
# Header fields that choose how to check.
_CHOOSING = {"jku", "x5u", "jwk", "x5c", "crit"}
log = Log("oidc")
Text = Annotated[str, Meta(min_length=1, max_length=1000)]


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scopes for tokens whose claim `claim` is `has`, or a list or a text of words with it; without
    a claim, for all tokens."""

    scopes: tuple[Text, ...]
    claim: str = ""
    has: str = ""


class Trusted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issuer, and the scopes of its tokens here."""

    issuer: Text
    audience: Text | tuple[Text, ...]
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]*(?!\n)$", max_length=100)] = ""
    user: Text = "sub"
    groups: Text = "wlcg.groups"
    scopes: tuple[Text, ...] = ()
    rules: tuple[Rule, ...] = ()
    algorithms: tuple[Text, ...] = ("RS256", "ES256")
    ca: str = ""
    proxy: str = ""

    @property
    def short(self) -> str:
        return self.name or urlsplit(self.issuer).hostname or ""


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuers: Annotated[tuple[Trusted, ...], Meta(min_length=1)]


class UnknownKey(BadToken):
    """A token of a trusted issuer with an unknown key: after `refresh` it may be known."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        super().__init__("the token's key is not known")
        self.refresh = refresh


def read(path: Path) -> Policy:
    """The policy in a YAML or JSON file. Raises AilurusError naming the field."""
    import yaml

    try:
        policy = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Policy)
    except OSError as error:
        raise AilurusError(f"cannot read {path}: {error.strerror}", field="--oidc") from None
    except yaml.YAMLError as error:
        raise AilurusError(f"{path} is no YAML: {error}", field="--oidc") from None
    except msgspec.ValidationError as error:
        fault = explained(error)
        raise AilurusError(
            f"{path}: {fault.message}", field=fault.field, remedy=fault.remedy
        ) from None
    for nr, one in enumerate(policy.issuers):
        _check(one, f"issuers[{nr}]")
    names = [one.short for one in policy.issuers]
    if len(set(names)) < len(names):
        raise AilurusError(f"{path}: two issuers have one name", field="issuers", remedy="name: …")
    return policy


def _check(one: Trusted, where: str) -> None:
    if not _safe(one.issuer):
        raise AilurusError(
            f"{one.issuer} is not https://, so anybody on the way could sign",
            field=f"{where}.issuer",
        )
    if one.short in ("worker", "bootstrap", ""):
        raise AilurusError(f"{one.short!r} cannot be a name", field=f"{where}.name")
    known = {name for names in ALGORITHMS.values() for name in names}
    for name in one.algorithms:
        if name not in known:
            raise AilurusError(
                f"{name} is not an algorithm to trust",
                field=f"{where}.algorithms",
                remedy=", ".join(sorted(known)),
            )
    for scope in (*one.scopes, *(scope for rule in one.rules for scope in rule.scopes)):
        edge = scope.startswith(f"{Scope.EDGE}:") and len(scope) > len(Scope.EDGE) + 1
        if scope not in _GRANTS and not edge:
            raise AilurusError(
                f"no scope {scope!r} can be given",
                field=f"{where}.scopes",
                remedy=f"{', '.join(sorted(_GRANTS))}, {Scope.EDGE}:SITE",
            )


def _safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    )


class Keyring:
    """The keys of one issuer, as it publishes them."""

    def __init__(self, trusted: Trusted) -> None:
        self.trusted = trusted
        self.keys: dict[str, jwt.PyJWK] = {}
        self._tried = -AGAIN_S
        self._trying: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Fetch the keys, at most once a minute; callers meanwhile wait for the same answer."""
        if self._trying is None or self._trying.done():
            if time.monotonic() - self._tried < AGAIN_S:
                return
            self._tried = time.monotonic()
            self._trying = asyncio.create_task(self._load())
        await asyncio.shield(self._trying)

    async def _load(self) -> None:
        """Replace the keys; those that are there stay when the issuer does not answer."""
        try:
            self.keys = await asyncio.to_thread(self._published)
        except (OSError, ValueError, AilurusError) as error:
            log.warning("issuer_keys_not_read", issuer=self.trusted.issuer, reason=str(error))
        else:
            log.info("issuer_keys_read", issuer=self.trusted.issuer, kids=sorted(self.keys))

    def _published(self) -> dict[str, jwt.PyJWK]:
        issuer = self.trusted.issuer
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        found = msgspec.json.decode(_document(self.trusted, url), type=_Discovery)
        if found.issuer != issuer:
            raise AilurusError(f"{url} is of another issuer, {found.issuer!r}")
        if not _safe(found.jwks_uri):
            raise AilurusError(f"its keys are at {found.jwks_uri}, which is not https://")
        published = msgspec.json.decode(_document(self.trusted, found.jwks_uri), type=_KeySet)
        keys: dict[str, jwt.PyJWK] = {}
        for one in published.keys:
            kid = one.get("kid")
            if isinstance(kid, str) and one.get("use", "sig") == "sig":
                try:
                    keys[kid] = jwt.PyJWK(one)
                # Of a kind that is not used here.
                except jwt.PyJWTError:
                    log.info("issuer_key_left_out", issuer=issuer, kid=kid)
        return keys


class _Discovery(Struct):
    issuer: str
    jwks_uri: str


class _KeySet(Struct):
    keys: list[dict[str, Any]]


class _Claims(Struct, frozen=True, kw_only=True):
    iss: str
    sub: str
    exp: float
    nbf: float = 0.0
    iat: float = 0.0
    jti: str = ""
    scope: str = ""


class Foreign:
    """The tokens of all issuers of a policy."""

    def __init__(self, policy: Policy) -> None:
        self._rings = {one.issuer: Keyring(one) for one in policy.issuers}

    async def keep_fresh(self, loop: Loop) -> None:
        """Fetch all keys now and each hour; sooner where it failed. Ends when cancelled."""
        while True:
            loop.turned(None)
            await asyncio.gather(*(ring.refresh() for ring in self._rings.values()))
            failed = any(not ring.keys for ring in self._rings.values())
            await asyncio.sleep(AGAIN_S if failed else HOURLY_S)

    def checked(self, token: str) -> tuple[Caller, float, float]:
        """The caller, from when on its token is good, and when it was made. Raises BadToken or
        UnknownKey."""
        try:
            header = jwt.get_unverified_header(token)
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadToken("this is not a token") from None
        ring = self._rings.get(issuer) if isinstance(issuer, str) else None
        if ring is None or not header.keys().isdisjoint(_CHOOSING):
            raise BadToken("the token is not of an issuer that is trusted here")
        kid, algorithm = header.get("kid"), header.get("alg")
        key = ring.keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise UnknownKey(ring.refresh)
        trusted = ring.trusted
        fitting = ALGORITHMS.get(key.key_type or "", ())
        if algorithm not in trusted.algorithms or algorithm not in fitting:
            raise BadToken("the token's algorithm is not one of its issuer's")
        try:
            content: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=trusted.audience,
                issuer=trusted.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            claims = msgspec.convert(content, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError):
            raise BadToken("the token is not good here") from None
        return _caller(trusted, claims, content), max(claims.nbf, claims.iat), claims.iat


def _caller(trusted: Trusted, claims: _Claims, content: Mapping[str, Any]) -> Caller:
    user = content.get(trusted.user)
    if not isinstance(user, str) or not user:
        raise BadToken(f"the token has no claim {trusted.user}")
    scopes = {scope for scope in claims.scope.split() if scope in trusted.scopes}
    for rule in trusted.rules:
        if not rule.claim or rule.has in _values(content.get(rule.claim)):
            scopes.update(rule.scopes)
    sites = [scope.partition(":")[2] for scope in scopes if scope.startswith(f"{Scope.EDGE}:")]
    if len(sites) > 1:
        raise BadToken("an edge has one site, and this token would have several")
    return Caller(
        subject=f"{trusted.short}:{user}"[:300],
        scopes=frozenset(Scope(scope.partition(":")[0]) for scope in scopes),
        expires=claims.exp,
        token_id=claims.jti,
        site=sites[0] if sites else "",
        groups=tuple(_values(content.get(trusted.groups)))[:MOST_GROUPS],
    )


def _values(claim: object) -> Sequence[str]:
    if isinstance(claim, str):
        return [claim, *claim.split()]
    return [one for one in claim if isinstance(one, str)] if isinstance(claim, list) else []


def _document(trusted: Trusted, url: str) -> bytes:
    with fetch.session(ca=trusted.ca, proxy=trusted.proxy) as session:
        return fetch.document(session, url, timeout_s=FETCH_S, max_bytes=LONGEST)
