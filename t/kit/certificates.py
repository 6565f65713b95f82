"""A private certificate authority for tests, whose certificates nobody else trusts: trustme's, as PEM files."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path

import trustme

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and its key, both PEM."""

    certificate: str
    key: str


class Authority:
    """A certificate authority whose files live in a directory; `certificate` is the path of its own one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._numbers = itertools.count(1)
        self._ca = trustme.CA()
        self.certificate = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.certificate)

    def server(self, *names: str, expired: bool = False) -> Pair:
        """A server's certificate for DNS names and IP addresses; by default for the loopback."""
        now = datetime.datetime.now(datetime.UTC)
        not_after = now - datetime.timedelta(days=1) if expired else None
        return self._write(self._ca.issue_cert(*(names or LOOPBACK), not_after=not_after))

    def client(self, name: str) -> Pair:
        """A client's certificate; `name` is the common name, which the test backend reports as `peer`."""
        return self._write(self._ca.issue_cert(common_name=name))

    def _write(self, leaf: trustme.LeafCert) -> Pair:
        stem = self._directory / f"leaf-{next(self._numbers)}"
        pair = Pair(f"{stem}.pem", f"{stem}.key")
        leaf.cert_chain_pems[0].write_to_path(pair.certificate)
        leaf.private_key_pem.write_to_path(pair.key)
        return pair
