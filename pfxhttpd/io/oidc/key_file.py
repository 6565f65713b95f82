"""The file of the private key. It is read for each assertion, so that a new key is used without a reload."""

from __future__ import annotations

import os
import stat

MAX_KEY_FILE = 64 * 1024


def read_key(path: str, known: str) -> str:
    """The text of the file at `path`.

    If the file cannot be read, the result is `known`, the text that was read with the configuration. This is the case
    in a jail that does not contain the file, or for a user without permission.
    """
    if not path:
        return known
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return known
            return file.read(MAX_KEY_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return known
