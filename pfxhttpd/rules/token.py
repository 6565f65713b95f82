"""The conditions for a login with a token: its issuer, audience, time and scopes, and the account that it names.

They hold for the claims of a JWT whose signature has been verified (RFC 7519, RFC 9068) and for the response of a
provider about a token (RFC 7662). A JWT must also have the claims `exp` and `iss`. Each function raises
`TokenRefused`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.rules.jwt import TokenRefused
from pfxhttpd.wire.sanitize import account_error

Claims = Mapping[str, Any]

LATEST = 253_402_300_799
"""The last second of the year 9999. A later `exp` is refused, since such a token would never expire."""

JWT_ACCOUNT = ("sub", "preferred_username", "username")
INTROSPECTION_ACCOUNT = ("sub", "username")
"""The claims that can name the account. The first one that is present is used, unless `account_claim` is set."""

TENANT = "{tenantid}"
_TENANT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")

_ID_TOKEN_ONLY = ("nonce", "at_hash", "c_hash", "auth_time")
"""Claims that ID tokens have (OpenID Connect Core 1.0 section 2). An access token may have `auth_time` (RFC 9068), but
then it has a scope as well."""
_OTHER_KINDS = {"typ": ("id", "refresh", "offline", "logout"), "token_use": ("id", "refresh")}
"""The values by which Keycloak and Cognito mark tokens that are not access tokens."""


def check_jwt_claims(claims: Claims, provider: SaslOidc, issuer: str, now: float) -> None:
    """Check the claims of a JWT that was signed by `issuer`. `now` is in Unix seconds."""
    if "exp" not in claims:
        raise TokenRefused("the token has no exp")
    if "iss" not in claims:
        raise TokenRefused("the token has no iss")
    if not _scopes(claims) and any(name in claims for name in _ID_TOKEN_ONLY):
        raise TokenRefused("the token seems to be an ID token")
    check_claims(claims, provider, (issuer, *provider.issuers), now)


def check_claims(claims: Claims, provider: SaslOidc, issuers: Collection[str], now: float) -> None:
    """Check what holds for every token: its time, issuer and kind as far as the claims contain them, and the
    settings."""
    _check_time(claims, now, provider.clock_skew)
    if "iss" in claims and not _issued_by(claims, issuers):
        raise TokenRefused("the token is another issuer's")
    if "cnf" in claims:
        raise TokenRefused("the token is bound to a key that SASL cannot prove (cnf)")
    _check_kind(claims)
    if provider.audience and not set(provider.audience) & _texts(claims.get("aud")):
        raise TokenRefused("the token is for another audience")
    missing = set(provider.required_scopes) - _scopes(claims)
    if missing:
        raise TokenRefused("the token lacks a required scope", "insufficient_scope")
    for name, value in provider.required_claims.items():
        if not _holds(claims.get(name), value):
            raise TokenRefused(f"the token lacks a required claim ({name})")


def account_of(claims: Claims, provider: SaslOidc, names: tuple[str, ...], user: str) -> str:
    """The account that the claims name.

    `user` is the name that the client sent, or "". It is compared with the account if `username_match` is set, and is
    never used in place of a claim.
    """
    wanted = (provider.account_claim,) if provider.account_claim else names
    name = next((name for name in wanted if claims.get(name) not in (None, "")), None)
    if name is None:
        raise TokenRefused(f"the token does not name the account ({' or '.join(wanted)})")
    account = claims[name]
    if type(account) is not str or account_error(account):
        raise TokenRefused(f"the token's {name} cannot be an account")
    if name == "email" and claims.get("email_verified") in (False, "false"):
        raise TokenRefused("the token's email is not verified")
    if provider.username_match and not _same_user(account, user):
        raise TokenRefused("the token is another user's")
    return account


def _check_time(claims: Claims, now: float, skew: float) -> None:
    if "exp" in claims and now >= _time(claims, "exp") + skew:
        raise TokenRefused("the token has expired")
    if "nbf" in claims and now < _time(claims, "nbf") - skew:
        raise TokenRefused("the token is not valid yet")


def _time(claims: Claims, name: str) -> float:
    """A NumericDate (RFC 7519 section 2)."""
    value = claims[name]
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= LATEST:
        raise TokenRefused(f"the token's {name} is no time")
    return float(value)


def may_be_issuer(issuer: str, accepted: Collection[str]) -> bool:
    """Whether `issuer` is one of those accepted. A template among them matches with any tenant."""
    for name in accepted:
        before, template, after = name.partition(TENANT)
        if not template and issuer == name:
            return True
        tenant = issuer[len(before) : len(issuer) - len(after)]
        if template and f"{before}{tenant}{after}" == issuer and _TENANT_ID.fullmatch(tenant):
            return True
    return False


def _issued_by(claims: Claims, issuers: Collection[str]) -> bool:
    issuer, tenant = claims["iss"], claims.get("tid")
    if type(issuer) is not str:
        return False
    if type(tenant) is not str or not _TENANT_ID.fullmatch(tenant):
        tenant = None
    for accepted in issuers:
        if TENANT in accepted:
            if tenant is not None and issuer == accepted.replace(TENANT, tenant):
                return True
        elif issuer == accepted:
            return True
    return False


def _check_kind(claims: Claims) -> None:
    for name, kinds in _OTHER_KINDS.items():
        kind = claims.get(name)
        if type(kind) is str and kind.lower() in kinds:
            raise TokenRefused("the token is no access token")
    subject = claims.get("sub")
    if subject is not None and subject in (claims.get("client_id"), claims.get("azp")):
        raise TokenRefused("the token is a client's own, not a user's")


def _scopes(claims: Claims) -> set[str]:
    """The scopes: the claim `scope` (RFC 8693 section 4.2), or `scp`, a text with Entra and a list with Okta."""
    found = claims.get("scope", claims.get("scp"))
    return set(found.split()) if type(found) is str else _texts(found)


def _texts(value: Any) -> set[str]:
    """A text or the texts of a list, as a set. It is empty for any other value."""
    if type(value) is str:
        return {value}
    return {item for item in value if type(item) is str} if type(value) is list else set()


def _holds(claim: Any, value: str | int | bool) -> bool:
    """Whether the claim is the value, or a list that contains it."""
    if type(claim) is list:
        return any(_holds(item, value) for item in claim)
    return type(claim) is type(value) and bool(claim == value)


def _same_user(account: str, user: str) -> bool:
    """Whether the names are equal. The domain of a mail address is compared without regard to case."""
    return bool(user) and _folded(account) == _folded(user)


def _folded(name: str) -> str:
    local, at, domain = name.rpartition("@")
    return f"{local}@{domain.lower()}" if at else name
