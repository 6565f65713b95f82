"""A private Postfix in a temporary directory: own configuration, queue, data and log, smtpd on a free loopback port.

The machine's own instance, in /etc/postfix, is neither read nor touched. Needs root, as Postfix does. The master
runs under a keeper that ends it when the test ends, killed or not.
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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kit import ports

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log/mail.log
maillog_file_prefixes = {directory}/log
myhostname = mx.example.test
mydestination =
mynetworks = 192.0.2.0/24
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
virtual_transport = discard
default_transport = discard
relay_transport = discard
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
"""

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

KEEPER = """\
exec 3<&0
"$@" </dev/null 3<&- &
master=$!
{ read -r _; kill "$master"; } <&3 &
wait "$master"
"""
"""Ends the master when its own standard input ends: with the test, however that ends. A signal of the kernel's at the
parent's death (kit.proc.die_with_parent) would not do, since the master changes its user id, which cancels it (prctl(2))."""


class Smtpd(NamedTuple):
    """One more smtpd, with settings of its own ("name = value") and perhaps chrooted into the queue directory."""

    settings: tuple[str, ...] = ()
    chroot: bool = False

    def line(self, port: int) -> str:
        """Its entry in master.cf."""
        options = "".join(f"\n    -o {{ {setting} }}" for setting in self.settings)
        return f"127.0.0.1:{port} inet n - {'y' if self.chroot else 'n'} - - smtpd{options}\n"


class Postfix:
    """`main` are lines for main.cf. With `smtpd=False` nothing is started: enough for `postmap`.

    `others` are more smtpds by a name of the test's choice; `ports` tells where they listen.
    """

    def __init__(
        self,
        main: Iterable[str] = (),
        *,
        smtpd: bool = True,
        others: Mapping[str, Smtpd] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.directory.chmod(0o755)
        self.config = self.directory / "etc"
        self.port = ports.free()
        for name in ("etc", "queue", "data", "log"):
            (self.directory / name).mkdir(mode=0o755)
        owner = pwd.getpwnam("postfix")
        os.chown(self.directory / "data", owner.pw_uid, owner.pw_gid)
        self._main = MAIN.format(directory=self.directory)
        self.configure(main)
        self.ports = {name: ports.free() for name in others or {}}
        more = "".join(other.line(self.ports[name]) for name, other in (others or {}).items())
        self._write("master.cf", MASTER.format(port=self.port) + more)
        self._master: subprocess.Popen[bytes] | None = None
        if smtpd:
            try:
                self._start(timeout)
            except BaseException:
                self.stop()
                raise

    def configure(self, main: Iterable[str]) -> None:
        """Writes main.cf anew; processes that Postfix starts from now on read it."""
        self._write("main.cf", self._main + "".join(f"{line}\n" for line in main))

    def _write(self, name: str, text: str) -> None:
        """Writes a file and backdates it: Postfix waits for a file to settle that changed a moment ago."""
        path = self.config / name
        path.write_text(text)
        past = time.time() - 60
        os.utime(path, (past, past))

    def _start(self, timeout: float) -> None:
        check = subprocess.run(["postfix", "-c", str(self.config), "check"], capture_output=True, text=True)
        if check.returncode:
            raise RuntimeError(f"postfix check failed: {check.stderr}")
        programs = self._postconf("daemon_directory")
        self._master = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", f"{programs}/master", "-c", str(self.config), "-s"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as probe:
                if probe.recv(4).startswith(b"220"):
                    return
            if self._master.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postfix did not start:\n{self.log}")
            time.sleep(0.02)

    def _postconf(self, name: str) -> str:
        return subprocess.run(
            ["postconf", "-c", str(self.config), "-h", name], capture_output=True, text=True, check=True
        ).stdout.strip()

    @property
    def log(self) -> str:
        """What Postfix has logged so far."""
        try:
            return (self.directory / "log" / "mail.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_log(self, text: str, timeout: float = 10.0) -> None:
        """Returns when the text is in Postfix's log. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while text not in self.log:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} awaited in Postfix's log:\n{self.log}")
            time.sleep(0.02)

    def postmap(self, table: str, *keys: str | bytes, timeout: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        """`postmap -q`: of one key from the command line, of several (or "-" alone) through standard input."""
        arguments = ["postmap", "-c", str(self.config), "-q"]
        if len(keys) == 1:
            return subprocess.run([*arguments, keys[0], table], capture_output=True, timeout=timeout)
        text = b"".join((key if isinstance(key, bytes) else key.encode()) + b"\n" for key in keys)
        return subprocess.run([*arguments, "-", table], input=text, capture_output=True, timeout=timeout)

    def smtp(self, other: str = "", timeout: float = 30.0) -> smtplib.SMTP:
        """A client that has said EHLO to smtpd, or to one of the others."""
        port = self.ports[other] if other else self.port
        client = smtplib.SMTP("127.0.0.1", port, "client.example.test", timeout)
        client.ehlo()
        return client

    def stop(self) -> None:
        """Ends every process of the instance and removes its directory; without effect the second time."""
        if self._master is not None:
            assert self._master.stdin
            self._master.stdin.close()
            try:
                self._master.wait(10)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            for pid in self._strays():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _strays(self) -> list[int]:
        """Processes that work in this instance's queue; each Postfix daemon has it as its current directory."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/cwd").startswith(str(self.directory)):
                    found.append(int(name))
        return found

    def __enter__(self) -> Postfix:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
