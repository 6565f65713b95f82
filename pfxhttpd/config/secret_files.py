"""Secrets in files of their own: systemd credentials, mounted secrets, private keys."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node

MAX_SIZE = 64 * 1024
"""Bytes that such a file may have."""

_CREDENTIALS_DIRECTORY = re.compile(r"\A(?:\$CREDENTIALS_DIRECTORY|\$\{CREDENTIALS_DIRECTORY\})(?=/|\Z)")


class SecretFiles:
    """Reads the files, each one once. A file that cannot be used gives "" and adds to `problems`.

    `base` is the directory that relative paths start from.
    """

    def __init__(self, base: str, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._base = base
        self._credentials_directory = environ.get("CREDENTIALS_DIRECTORY", "")
        self._texts: dict[str, str] = {}

    def text(self, block: Node, key: str) -> str:
        """The value of `key` in this block, else the line in the file that `key`_file names, else ""."""
        given = block.scalar(key)
        node = block.get(f"{key}_file")
        if given or node is None or not node.value:
            return given or ""
        text = self._content(node).removesuffix("\n").removesuffix("\r")
        if re.search(r"[\x00-\x1f\x7f]", text):
            self.problems.append(node.problem("the file must hold one line of text"))
            return ""
        return text

    def credentials(self, block: Node, key: str = "http_auth_basic") -> str:
        """The user:password under `key` or in the file that `key`_file names, or ""."""
        text = self.text(block, key)
        node = block.get(f"{key}_file")
        if node and text and ":" not in text and not block.scalar(key):
            self.problems.append(node.problem("the file must hold user:password, but there is no colon"))
        return text

    def pem(self, node: Node) -> str:
        """The whole text of a key file."""
        return self._content(node)

    def path(self, node: Node) -> str:
        """The absolute path of the file that a node names."""
        path: str = node.value
        if _CREDENTIALS_DIRECTORY.match(path):
            path = self._credentials_directory + _CREDENTIALS_DIRECTORY.sub("", path)
        return os.path.abspath(os.path.join(self._base, path))

    def _content(self, node: Node) -> str:
        if _CREDENTIALS_DIRECTORY.match(node.value) and not self._credentials_directory:
            self.problems.append(node.problem("CREDENTIALS_DIRECTORY is not set (does the unit have LoadCredential=?)"))
            return ""
        path = self.path(node)
        if path not in self._texts:
            try:
                self._texts[path] = _read(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self.problems.append(node.problem(f"the file cannot be used: {reason}"))
                return ""
        return self._texts[path]


def _read(path: str) -> str:
    """The text of a regular file. Raises OSError or ValueError. O_NONBLOCK keeps a pipe from stalling it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise ValueError(f"it is larger than {MAX_SIZE // 1024} KiB")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("it is empty")
    return text
