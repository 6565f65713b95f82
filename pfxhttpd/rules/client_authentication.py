"""Requests to a provider's endpoints with client authentication (RFC 6749 section 2.3, RFC 7523), and the token
response.

With the method client_secret_basic, neither the secret nor the client identifier is in the body, because some providers
refuse a request that contains them twice.
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
"""Seconds. Some providers accept at most 300."""

REFRESH = 30.0
"""Seconds before its expiry when a token is replaced."""
UNSTATED_LIFETIME = 300.0
"""Seconds that a token is used if the response has no `expires_in`, which is optional (RFC 6749 section 5.1)."""
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
"""The error codes that may be logged. Any other part of an error response could repeat the client secret."""


class FormRequest(NamedTuple):
    """A form to POST, and its additional headers. It contains secrets."""

    body: bytes
    headers: Mapping[str, str]


class BearerToken(NamedTuple):
    """A token for a backend. `refresh_after` and `lifetime` are in seconds from the response."""

    value: str
    refresh_after: float
    lifetime: float


def client_request(client: BackendOidc | SaslOidc, form: Mapping[str, str], assertion: str) -> FormRequest:
    """The form with the client authentication. `assertion` is the signed JWT for private_key_jwt, or ""."""
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
"""The fields of the client authentication. Fields of the same names in the form, such as the mail client's
`client_id`, are removed."""


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
    """The introspection request for a token (RFC 7662 section 2.1), with the context of the login."""
    form = {**context, "token": token, "token_type_hint": "access_token"}
    if provider.scopes:
        form["scope"] = " ".join(provider.scopes)
    return form


def bearer_token(response: BackendResponse) -> BearerToken:
    """The token in the response of a token endpoint (RFC 6749 section 5.1).

    Raises `BackendError`. Its reason contains no part of the response except a known error code.
    """
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
    """The value of `expires_in`, which some providers send as a text."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e10:
        return float(value)
    return UNSTATED_LIFETIME


def _plain(text: str) -> bool:
    """Whether the text consists of visible ASCII characters and can be sent in a header."""
    return text.isascii() and text.isprintable() and " " not in text


def _error(body: bytes) -> str:
    try:
        code = parse_object(body).get("error")
    except ValueError:
        return ""
    return f", {code}" if type(code) is str and code in _ERRORS else ""
