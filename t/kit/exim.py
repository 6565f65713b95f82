"""A private Exim in a temporary directory: own configuration, spool and log, one SMTP port on the loopback.

The program is the one that PFXHTTPD_TEST_EXIM names; Debian's package conflicts with Postfix's, so `t/run` unpacks it
somewhere instead of installing it. Needs root: the program is not set-user-id there, and only root may name a
configuration with -C. The daemon runs in the foreground as a child of the test, and its children die with it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import smtplib
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from kit import ports, proc

USER = "Debian-exim"
"""The user that Debian's program is built for."""

MAIN = """\
primary_hostname = mx.example.test
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
exim_path = {program}
keep_environment =
tls_advertise_hosts =
auth_advertise_hosts = *
smtp_accept_max = 0
acl_smtp_rcpt = accept authenticated = *
acl_smtp_data = discard

begin acl
begin routers
begin transports

begin authenticators
"""

AUTHENTICATOR = """\
{name}:
  driver = dovecot
  public_name = {name}
  server_socket = {where}
  server_set_id = $auth1
"""


class Exim:
    """Authenticates PLAIN and LOGIN at `server_socket`: a Unix socket's path, or "HOST PORT"."""

    def __init__(self, server_socket: str, timeout: float = 30.0) -> None:
        self.program = os.environ["PFXHTTPD_TEST_EXIM"]
        self.directory = Path(tempfile.mkdtemp(prefix="exim-"))
        self.directory.chmod(0o755)
        self.port = ports.free()
        owner = pwd.getpwnam(USER)
        for name in ("spool", "log"):
            (self.directory / name).mkdir()
            os.chown(self.directory / name, owner.pw_uid, owner.pw_gid)
        config = self.directory / "exim.conf"
        text = MAIN.format(port=self.port, directory=self.directory, program=self.program)
        names = ("PLAIN", "LOGIN")
        config.write_text(text + "".join(AUTHENTICATOR.format(name=name, where=server_socket) for name in names))
        self._daemon = subprocess.Popen(
            [self.program, "-C", str(config), "-bdf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        try:
            self._wait(timeout)
        except BaseException:
            self.stop()
            raise

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as probe:
                if probe.recv(4).startswith(b"220"):
                    return
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                assert self._daemon.stderr
                self._daemon.kill()
                raise RuntimeError(f"Exim did not start:\n{self._daemon.stderr.read().decode()}\n{self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """What Exim has logged so far."""
        parts = sorted((self.directory / "log").glob("*log"))
        return "\n".join(part.read_text(errors="replace") for part in parts)

    def smtp(self, timeout: float = 30.0) -> smtplib.SMTP:
        """A client that has said EHLO."""
        client = smtplib.SMTP("127.0.0.1", self.port, "client.example.test", timeout)
        client.ehlo()
        return client

    def stop(self) -> None:
        """Ends every process of the instance and removes its directory; without effect the second time."""
        self._daemon.terminate()
        try:
            self._daemon.wait(10)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        for pid in proc.session_members(self._daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if self._daemon.stderr:
            self._daemon.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Exim:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
