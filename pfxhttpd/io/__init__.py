"""Access to the world outside the process, one subject per module: sockets, the chroot, HTTP, the log.

The modules do not import each other; `process` and `service` combine them.
"""

from __future__ import annotations

import os


class SetupError(Exception):
    """Something that the server needs is not available: a socket, a file, a user, a directory. The message is one line.

    `permission` is true when the operating system did not allow it. `exit_code` is the process's exit code for this
    error (sysexits.h): EX_NOPERM with `permission`, else the code given.
    """

    def __init__(self, reason: str, permission: bool = False, exit_code: int = os.EX_UNAVAILABLE) -> None:
        super().__init__(reason)
        self.permission = permission
        self.exit_code = os.EX_NOPERM if permission else exit_code
