"""A login with a token, within the timeout of its entry."""

from __future__ import annotations

import time

from pfxhttpd.config.settings import Entry
from pfxhttpd.rules.login import login_context
from pfxhttpd.service.oidc.validator import TokenValidator
from pfxhttpd.service.worker_status import WorkerStatus
from pfxhttpd.wire.dovecot_exchange import Attempt


class TokenLogin:
    """Validates the tokens of one entry's users."""

    def __init__(self, entry: Entry, validator: TokenValidator, status: WorkerStatus) -> None:
        self._entry, self._validator, self._status = entry, validator, status

    def account(self, attempt: Attempt) -> str:
        """The account that the token of the attempt names.

        Raises `TokenRefused`, and `BackendError` if the token could not be validated in time.
        """
        entry = self._entry
        now = time.monotonic()
        deadline = now + entry.timeout
        self._status.begin(entry, now, deadline)
        try:
            return self._validator.account(attempt.secret, attempt.user, login_context(entry, attempt), deadline)
        finally:
            self._status.end()
