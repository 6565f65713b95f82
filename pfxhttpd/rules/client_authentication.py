"""How we authenticate to a provider's endpoints (RFC 6749 section 2.3, RFC 7523), and what we ask its token endpoint.

A secret that is sent by Basic stands nowhere else, and neither does the client's name: some providers refuse a request
that names the client twice.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote_plus, urlencode

from pfxhttpd.config.settings import BackendOidc, SaslOidc
from pfxhttpd.rules.discovery import Discovery
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.rules.strict_json import parse_object

BASIC, POST, PRIVATE_KEY, NONE = "client_secret_basic", "client_secret_post", "private_key_jwt", "none"

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFETIME = 60
"""Seconds; providers accept 300 at most."""

REFRESH = 30.0
"""Seconds before its expiry at which a token is replaced."""
UNSTATED_LIFETIME = 300.0
"""Seconds that a token is used whose answer names no lifetime (RFC 6749 section 5.1 leaves that to other ways)."""
MAX_ANSWER = 256 * 1024
MAX_BEARER = 16 * 1024

_ERRORS = frozenset(
    [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
        "server_error",
        "temporarily_unavailable",
        "slow_down",
        "invalid_client_metadata",
        "use_dpop_nonce",
    ]
)
"""The error codes that may be logged. Anything else in an error answer may be an echo of our secret."""


class FormRequest(NamedTuple):
    """A form to POST, with the headers beyond those that every form has. It holds secrets."""

    body: bytes
    headers: Mapping[str, str]


class BearerToken(NamedTuple):
    """A token for a backend. `lifetime` and `refresh_after` are seconds from now on."""

    value: str
    refresh_after: float
    lifetime: float


def client_request(client: BackendOidc | SaslOidc, form: Mapping[str, str], assertion: str) -> FormRequest:
    """The form with our authentication; `assertion` is the signed one that private_key_jwt needs, else ""."""
    fields = {name: value for name, value in form.items() if name not in _OURS}
    headers: dict[str, str] = {}
    if client.auth_method == BASIC:
        login = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode("ascii")).decode("ascii")
    elif client.auth_method == POST:
        fields |= {"client_id": client.client_id, "client_secret": client.client_secret}
    elif client.auth_method == PRIVATE_KEY:
        fields |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    elif client.client_id:
        fields["client_id"] = client.client_id
    return FormRequest(urlencode(fields).encode("ascii"), headers)


_OURS = ("client_id", "client_secret", "client_assertion", "client_assertion_type")
"""Fields that say who asks; a mail client's `client_id` must not take their place."""


def assertion_claims(
    client: BackendOidc | SaslOidc, discovery: Discovery, endpoint: str, token_id: str, now: float
) -> dict[str, str | int]:
    """The claims of an assertion for `endpoint` (RFC 7523 section 3). `token_id` is new each time, `now` Unix seconds.

    The audience is one text: `endpoint` (the URL that is called), `issuer`, or a URL, as `assertion_audience` says.
    """
    chosen = client.assertion_audience
    audience = {"endpoint": endpoint, "issuer": discovery.issuer}.get(chosen, chosen)
    issued = int(now)
    return {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": audience,
        "jti": token_id,
        "iat": issued,
        "exp": issued + ASSERTION_LIFETIME,
    }


def token_form(client: BackendOidc) -> dict[str, str]:
    """The client-credentials grant (RFC 6749 section 4.4.2)."""
    form = {"grant_type": "client_credentials"}
    if client.scopes:
        form["scope"] = " ".join(client.scopes)
    return form


def introspection_form(provider: SaslOidc, token: str, context: Mapping[str, str]) -> dict[str, str]:
    """The question about a user's token (RFC 7662 section 2.1), with the login's context as the original sends it."""
    form = {**context, "token": token, "token_type_hint": "access_token"}
    if provider.scopes:
        form["scope"] = " ".join(provider.scopes)
    return form


def bearer_token(response: BackendResponse) -> BearerToken:
    """The token in a token endpoint's answer (RFC 6749 section 5.1). Raises `BackendError`, whose reason has no part
    of the answer but a known error code."""
    if len(response.body) > MAX_ANSWER:
        raise BackendError("the provider's token answer is too large")
    if response.status != 200:
        raise BackendError(
            f"the provider gives no token: status code {response.status}{_error(response.body)}",
            status=response.status,
        )
    try:
        answer = parse_object(response.body)
    except ValueError:
        raise BackendError("the provider's token answer is no JSON object") from None
    value, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
    if type(value) is not str or not value or len(value) > MAX_BEARER or not _plain(value):
        raise BackendError("the provider's token answer has no usable access_token")
    if type(kind) is not str or kind.lower() != "bearer":
        raise BackendError("the provider's token is no bearer token")
    lifetime = _lifetime(answer.get("expires_in"))
    return BearerToken(value, lifetime - min(REFRESH, lifetime / 2), lifetime)


def _lifetime(value: object) -> float:
    """`expires_in`; some providers send it as a text."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e10:
        return float(value)
    return UNSTATED_LIFETIME


def _plain(text: str) -> bool:
    """Fit for a header: visible ASCII (RFC 6750 section 2.1 allows less)."""
    return text.isascii() and text.isprintable() and " " not in text


def _error(body: bytes) -> str:
    try:
        code = parse_object(body).get("error")
    except ValueError:
        return ""
    return f", {code}" if type(code) is str and code in _ERRORS else ""
