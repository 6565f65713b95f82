"""Validation of the tokens of users, with the keys of the provider or by a request to it.

A token that one method has refused is not tried with another one. With `auto`, introspection is used only if the keys
cannot be fetched or do not include the key of the token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.io.oidc.keys import Verifier
from pfxhttpd.rules.client_authentication import introspection_form
from pfxhttpd.rules.discovery import check_issuer, likely_issuers
from pfxhttpd.rules.introspection import introspection_claims, tokeninfo_claims, userinfo_claims
from pfxhttpd.rules.jwt import MAX_TOKEN, TokenRefused, looks_like_jwt, read_jwt, unverified_issuer
from pfxhttpd.rules.key_set import UnknownKey
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.token import (
    INTROSPECTION_ACCOUNT,
    JWT_ACCOUNT,
    account_of,
    check_claims,
    check_jwt_claims,
    may_be_issuer,
)
from pfxhttpd.service.oidc.provider import Provider

JWKS, INTROSPECTION, AUTO, USERINFO = "jwks", "introspection", "auto", "userinfo"


@dataclass(frozen=True, slots=True)
class _Login:
    """A token and the login in which it was sent, as the arguments of `TokenValidator.account`."""

    token: str = field(repr=False)
    user: str
    context: Mapping[str, str]
    deadline: float


class TokenValidator:
    """Validates the tokens of one entry's users. Results are not kept, and not shared with other entries."""

    def __init__(self, providers: Sequence[tuple[SaslOidc, Provider]], clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds."""
        self._providers = providers
        self._clock = clock
        self._verifier = Verifier()

    def account(self, token: str, user: str, context: Mapping[str, str], deadline: float) -> str:
        """The account that the token names. `user` is the name that the client sent, `context` describes the login
        for the provider, and `deadline` is in monotonic seconds.

        Raises `TokenRefused`, or `BackendError` if the token could not be validated.
        """
        if len(token) > MAX_TOKEN:
            raise TokenRefused("the token is too long")
        login = _Login(token, user, context, deadline)
        error: BackendError | None = None
        refused = TokenRefused("the token is of no provider that is configured")
        for settings, provider in self._responsible(token):
            try:
                return self._check(settings, provider, login)
            except TokenRefused as reason:
                refused = reason
            except BackendError as failure:
                error = error or failure
        raise error or refused

    def _responsible(self, token: str) -> Sequence[tuple[SaslOidc, Provider]]:
        """The providers to use: the only one; or of several, the one that the claim iss of a JWT names, and for an
        opaque token those that validate tokens by a request."""
        if len(self._providers) == 1:
            return self._providers
        if not looks_like_jwt(token):
            return [pair for pair in self._providers if pair[0].validation != JWKS]
        issuer = unverified_issuer(token)
        return [pair for pair in self._providers if _is_issuer(pair[0], issuer)][:1]

    def _check(self, settings: SaslOidc, provider: Provider, login: _Login) -> str:
        if settings.validation == USERINFO:
            return self._by_userinfo(settings, provider, login)
        if settings.validation == JWKS:
            return self._by_keys(settings, provider, login)
        if settings.validation == AUTO and looks_like_jwt(login.token):
            try:
                return self._by_keys(settings, provider, login)
            except (BackendError, UnknownKey):
                if not self._can_introspect(provider, login.deadline):
                    raise
        return self._by_introspection(settings, provider, login)

    def _by_keys(self, settings: SaslOidc, provider: Provider, login: _Login) -> str:
        jwt = read_jwt(login.token)
        issuer = _issuer(settings, provider, login.deadline)
        keys, fetched_at = provider.keys(settings.jwks_cache_ttl, login.deadline)
        try:
            self._verifier.check(jwt, keys.candidates(jwt.key_id, jwt.algorithm))
        except TokenRefused as refused:
            # The provider may have new keys. A token without a kid shows this only by a signature that no key verifies.
            if not isinstance(refused, UnknownKey) and jwt.key_id:
                raise
            newer = provider.keys_after(fetched_at, settings.jwks_cache_ttl, login.deadline)
            if newer is None:
                raise
            self._verifier.check(jwt, newer[0].candidates(jwt.key_id, jwt.algorithm))
        check_jwt_claims(jwt.claims, settings, issuer, self._clock())
        return account_of(jwt.claims, settings, JWT_ACCOUNT, login.user)

    def _can_introspect(self, provider: Provider, deadline: float) -> bool:
        try:
            return bool(provider.discovery(deadline).introspection_endpoint)
        except BackendError:
            return False

    def _by_introspection(self, settings: SaslOidc, provider: Provider, login: _Login) -> str:
        issuer = _issuer(settings, provider, login.deadline)
        url = provider.discovery(login.deadline).introspection_endpoint
        if not url:
            raise BackendError("the provider's configuration names no introspection_endpoint")
        claims = provider.post_form(
            url, introspection_form(settings, login.token, login.context), login.deadline, introspection_claims
        )
        check_claims(claims, settings, (issuer, *settings.issuers), self._clock())
        return account_of(claims, settings, INTROSPECTION_ACCOUNT, login.user)

    def _by_userinfo(self, settings: SaslOidc, provider: Provider, login: _Login) -> str:
        if settings.tokeninfo_url:
            claims = provider.post_token(settings.tokeninfo_url, login.token, login.deadline, tokeninfo_claims)
            issuers = (*likely_issuers(settings.configuration_uri), *settings.issuers)
        else:
            issuer = _issuer(settings, provider, login.deadline)
            url = provider.discovery(login.deadline).userinfo_endpoint
            if not url:
                raise BackendError("the provider's configuration names no userinfo_endpoint")
            claims = provider.get_with_token(url, login.token, login.deadline, userinfo_claims)
            issuers = (issuer, *settings.issuers)
        check_claims(claims, settings, issuers, self._clock())
        return account_of(claims, settings, JWT_ACCOUNT, login.user)


def _issuer(settings: SaslOidc, provider: Provider, deadline: float) -> str:
    """The issuer that the discovery document names."""
    discovery = provider.discovery(deadline)
    check_issuer(discovery, settings.configuration_uri, settings.issuers)
    return discovery.issuer


def _is_issuer(settings: SaslOidc, issuer: str) -> bool:
    """Whether this provider validates the tokens of this issuer, according to the configuration."""
    return may_be_issuer(issuer, (*likely_issuers(settings.configuration_uri), *settings.issuers))
