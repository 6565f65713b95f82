"""Requests to the endpoints of a provider over a given session. Each call is one exchange with one deadline.

Redirects are not followed, because tokens and credentials must only be sent to the URLs in the discovery document.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from requests import PreparedRequest, Request, Response, Session, exceptions

from pfxhttpd import __version__
from pfxhttpd.rules.response import BackendError, BackendResponse

_HEADERS = {
    "User-Agent": f"PostfixToHTTP/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
}
_FORM = {**_HEADERS, "Content-Type": "application/x-www-form-urlencoded"}

_REASONS = (
    (exceptions.Timeout, "the provider timed out"),
    (exceptions.SSLError, "TLS with the provider failed"),
    (exceptions.ProxyError, "the proxy to the provider failed"),
    (exceptions.ConnectionError, "connection to the provider failed"),
)


class Endpoints:
    """Sends requests to the URLs of one provider. `proxies` has the form that requests defines. Methods raise
    `BackendError`.

    `deadline` is in monotonic seconds.
    """

    def __init__(self, session: Session, proxies: Mapping[str, str]) -> None:
        self._session, self._proxies = session, dict(proxies)

    def get(self, url: str, deadline: float, bearer: str = "") -> BackendResponse:
        """The response to a GET request, with the bearer token if one is given."""
        headers = {**_HEADERS, "Authorization": f"Bearer {bearer}"} if bearer else _HEADERS
        return self._send(Request("GET", url, headers=headers), deadline)

    def post(self, url: str, form: bytes, headers: Mapping[str, str], deadline: float) -> BackendResponse:
        """The response to a form."""
        return self._send(Request("POST", url, data=form, headers={**_FORM, **headers}), deadline)

    def _send(self, request: Request, deadline: float) -> BackendResponse:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BackendError("the provider timed out: no time is left", timeout=True)
        try:
            prepared: PreparedRequest = self._session.prepare_request(request)
            response: Response = self._session.send(
                prepared, timeout=left, allow_redirects=False, proxies=self._proxies
            )
        except (exceptions.RequestException, ValueError) as error:
            raise _backend_error(error) from error
        return BackendResponse(response.status_code, {}, response.content)


def _backend_error(error: Exception) -> BackendError:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return BackendError(f"{reason}: {error}", timeout=isinstance(error, exceptions.Timeout))
    return BackendError("the provider cannot be asked")
