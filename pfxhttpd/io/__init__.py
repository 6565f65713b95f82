"""Everything outside the process, one thing per file: sockets, the jail, HTTP, the log. Siblings never import each other."""

from __future__ import annotations

import os


class SetupError(Exception):
    """Something that the server needs cannot be had: a socket, a file, a user, a directory. The message is one line.

    `permission` is true when the operating system did not allow it. `exit_code` is the process's exit code for this
    error (sysexits.h): EX_NOPERM with `permission`, else the code given.
    """

    def __init__(self, reason: str, permission: bool = False, exit_code: int = os.EX_UNAVAILABLE) -> None:
        super().__init__(reason)
        self.permission = permission
        self.exit_code = os.EX_NOPERM if permission else exit_code
