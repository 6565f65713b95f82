"""The commands, one in each file; `parser` describes their arguments, and each is imported when it runs."""

from __future__ import annotations

import os


class CommandError(Exception):
    """A command that cannot be carried out. The text is for the administrator; `exit_code` is one of sysexits.h."""

    exit_code = os.EX_UNAVAILABLE

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(CommandError):
    """The arguments do not fit the command."""

    exit_code = os.EX_USAGE


class NoReplyError(CommandError):
    """No reply came from the server. Postfix would try again later."""

    exit_code = os.EX_TEMPFAIL
