"""The real pfxhttpd as a subprocess, from the source tree, with a configuration in a temporary directory.

with Daemon(config) as daemon:                       # a mapping, written as YAML; waits for "Ready"
    daemon.log.wait_for("Connection closed")
# here it was stopped, had to exit with 0, and left no process, no socket file and no traceback behind
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kit import proc
from kit.forked_process import ForkedProcess
from kit.logs import Log

TREE = Path(__file__).resolve().parents[2]
READY = r'"?msg"?[=:]"?Ready\b'


EXECUTE = "PFXHTTPD_TEST_EXECUTE"
"""The variable with which `t/conftest.py` tells that a test's servers are executed and not forked."""


def may_fork(environment: Mapping[str, str]) -> bool:
    """Whether a server with these variables may be forked: the others are read when an interpreter starts."""
    return EXECUTE not in os.environ and not any(
        name.startswith(("PYTHON", "LC_", "LANG", "TZ")) for name in environment
    )


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change the daemon's behaviour: proxies, PFXHTTP_*, systemd's."""
    unwanted = (EXECUTE, "PFXHTTP_", "LISTEN_", "NOTIFY_", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and not name.lower().endswith("_proxy")
    }
    environment["PYTHONPATH"] = str(TREE)
    environment.update(more or {})
    return environment


def command(arguments: Iterable[str], python: str = sys.executable) -> list[str]:
    """The argument vector of `pfxhttpd ARGUMENTS…` from the source tree."""
    return [python, "-m", "pfxhttpd", *arguments]


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    input: str = "",
    cwd: Path = Path("."),
) -> subprocess.CompletedProcess[str]:
    """Runs `pfxhttpd ARGUMENTS…` to its end; `returncode`, `stdout`, `stderr` of the result tell what happened."""
    if not may_fork(environment or {}):
        return subprocess.run(
            command(arguments),
            cwd=cwd,
            env=clean_environment(environment),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=proc.die_with_parent,
        )
    with contextlib.ExitStack() as stack:
        stdin, stdout, stderr = files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        stdin.write(input)
        stdin.seek(0)
        streams = stdin.fileno(), stdout.fileno(), stderr.fileno()
        process = ForkedProcess(arguments, clean_environment(environment), cwd.absolute(), streams)
        try:
            status = process.wait(timeout)
        except BaseException:
            os.kill(process.pid, signal.SIGKILL)
            raise
        for file in files:
            file.seek(0)
        return subprocess.CompletedProcess(command(arguments), status, stdout.read(), stderr.read())


class Daemon:
    """One pfxhttpd. `directory` is its temporary directory, world-searchable, so that service users reach it."""

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        arguments: Iterable[str] = ("run",),
        python: str = sys.executable,
        timeout: float = 20.0,
    ) -> None:
        """Starts it, and unless `ready` is false waits until it serves. A string is the configuration file's text.

        It is executed if `python` or a variable of the environment asks for another interpreter, and in tests that are
        marked so; else it is forked by a process that has imported it.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="pfxhttpd-"))
        self.directory.chmod(0o755)
        self.config_path = self.directory / "pfxhttp.yml"
        self.runtime_directory = self.directory / "run"
        self.runtime_directory.mkdir()
        self._stopped = False
        self.write(config)
        self.process = self._started(["--config", str(self.config_path), *arguments], environment, python)
        self.pid = self.process.pid
        if ready:
            try:
                self.log.wait_for(READY, timeout)
            except BaseException:
                self.destroy()
                raise

    def _started(
        self, arguments: list[str], environment: Mapping[str, str] | None, python: str
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        reading, writing = os.pipe()
        self.log = Log(open(reading, "rb"))  # noqa: SIM115  read to its end
        with open(os.devnull, "rb") as null, open(writing, "wb") as output:
            if python == sys.executable and may_fork(environment or {}):
                streams = null.fileno(), output.fileno(), output.fileno()
                return ForkedProcess(arguments, clean_environment(environment), self.directory, streams)
            return subprocess.Popen(
                command(arguments, python),
                cwd=self.directory,
                env=clean_environment(environment),
                stdin=null,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=proc.die_with_parent,
            )

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replaces the configuration file. A mapping without `server.runtime_directory` gets the temporary one."""
        if not isinstance(config, str):
            server = {"runtime_directory": str(self.runtime_directory), **config.get("server", {})}
            config = yaml.safe_dump({**config, "server": server}, sort_keys=False, allow_unicode=True)
        fresh = self.config_path.with_suffix(".new")
        fresh.write_text(config, encoding="utf-8")
        fresh.chmod(0o644)
        fresh.replace(self.config_path)

    # Looking at it.

    def children(self) -> dict[int, str]:
        """Process id -> title of the master's living children."""
        return {pid: proc.command_line(pid) for pid in proc.running_children(self.pid)}

    def workers(self) -> list[int]:
        """The process ids of the workers, oldest first, told by their titles."""
        return [pid for pid, title in self.children().items() if "pfxhttpd: worker" in title]

    def process_named(self, role: str) -> int:
        """The one child whose title is `pfxhttpd: <role>…`. Raises LookupError."""
        found = [pid for pid, title in self.children().items() if title.startswith(f"pfxhttpd: {role}")]
        if len(found) != 1:
            raise LookupError(f"one {role!r} awaited among {self.children()}")
        return found[0]

    def processes(self) -> list[int]:
        """Everything alive that the daemon's session holds, the master included."""
        return proc.session_members(self.pid)

    def socket_files(self) -> list[Path]:
        """The Unix sockets below the temporary directory."""
        return [path for path in self.directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs another pfxhttpd command with this one's configuration, such as `query`, `status`, `reload`."""
        return run("--config", str(self.config_path), *arguments, **more)

    # Acting on it.

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def reload(self, config: Mapping[str, Any] | str | None = None, timeout: float = 20.0) -> str:
        """Sends HUP, after writing the configuration if one is given; the log line that reports the outcome."""
        if config is not None:
            self.write(config)
        mark = self.log.position
        self.send_signal(signal.SIGHUP)
        return self.log.wait_for(r'msg"?[=:]"?(Configuration reloaded|Reload failed)', timeout, mark)

    def wait(self, timeout: float = 20.0) -> int:
        """The exit status, once the master has ended. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> None:
        """Asks it to stop and checks that it did as it should.

        Raises AssertionError for another exit status than 0, for a process, a socket file or a traceback left.
        """
        if self._stopped:
            return
        self._stopped = True
        try:
            with contextlib.suppress(ProcessLookupError):
                if self.process.poll() is None:
                    self.send_signal(number)
            status = self.wait(timeout)
            left = self._left_after(2.0)
            assert not left, f"left running: {left}\n{self.log.tail}"
            self.log.wait_end()
            assert status == 0, f"exit status {status}\n{self.log.tail}"
            files = self.socket_files()
            assert not files, f"socket files left: {files}"
            self.check_log()
        finally:
            self.destroy()

    def _left_after(self, seconds: float) -> dict[int, str]:
        """What of the session is alive after the master: orphans get a moment to be reaped."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return {pid: proc.command_line(pid) for pid in left}

    def check_log(self) -> None:
        """Raises AssertionError when a traceback is in the log."""
        assert "Traceback" not in self.log.text, f"a traceback in the log:\n{self.log.tail}"

    def destroy(self) -> None:
        """Kills whatever of it is alive, and removes its directory. Never raises for what is gone already."""
        self._stopped = True
        while members := self.processes():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.destroy()
