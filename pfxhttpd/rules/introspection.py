"""The responses of a provider about the token of a user: introspection (RFC 7662), userinfo (OpenID Connect Core 1.0
section 5.3), and tokeninfo as Google has it.

`TokenRefused` means that the provider refuses the token. Every response that is not clear raises `BackendError`,
which is temporary.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pfxhttpd.rules.jwt import TokenRefused
from pfxhttpd.rules.key_set import MAX_DOCUMENT
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.rules.strict_json import JsonObject, parse_object

_NUMBER = re.compile(r"[0-9]{1,12}")

INACTIVE = "the provider says that the token is not valid"


def introspection_claims(response: BackendResponse) -> JsonObject:
    """The members of an introspection response for an active token (RFC 7662 section 2.2)."""
    claims = _object(response, "introspection", refused_by=())
    active = claims.get("active")
    if type(active) is not bool:
        raise BackendError("the provider's introspection does not say whether the token is active")
    if not active:
        raise TokenRefused(INACTIVE)
    return claims


def userinfo_claims(response: BackendResponse) -> JsonObject:
    """The members of a userinfo response. A token is refused with 401, or with 403 for its scope (RFC 6750 section
    3.1)."""
    return _object(response, "userinfo", refused_by=(401, 403))


def tokeninfo_claims(response: BackendResponse) -> JsonObject:
    """The members of a tokeninfo response of Google. A token is refused with 400; numbers are given as texts."""
    claims = _object(response, "tokeninfo", refused_by=(400, 401))
    expiry = claims.get("exp")
    if type(expiry) is str and _NUMBER.fullmatch(expiry):
        claims["exp"] = int(expiry)
    return claims


def _object(response: BackendResponse, name: str, refused_by: Collection[int]) -> JsonObject:
    if response.status in refused_by:
        raise TokenRefused(INACTIVE)
    if response.status != 200:
        raise BackendError(f"the provider's {name} answered with status code {response.status}", status=response.status)
    if len(response.body) > MAX_DOCUMENT:
        raise BackendError(f"the provider's {name} answer is too large")
    try:
        return parse_object(response.body)
    except ValueError:
        raise BackendError(f"the provider's {name} answer is no JSON object") from None
