"""What asking a backend comes to: an answer, or a failure to get one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class BackendResponse(NamedTuple):
    """An HTTP response, complete. Header names are lower case; the body is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class BackendError(Exception):
    """No answer that could be judged: the backend's, the network's or a token's fault, and temporary.

    `reason` is one line and carries no secret. `timeout` tells whether the deadline passed.
    """

    def __init__(self, reason: str, timeout: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timeout = timeout
