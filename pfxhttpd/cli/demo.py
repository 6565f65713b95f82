"""`pfxhttpd demo`: a first try with nothing installed but the package.

Starts the small API of `pfxhttpd.cli.demo_backend` as a child process, writes a configuration that uses it into a private
directory, prints what to type, and then does what `pfxhttpd run` does with that configuration.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

from pfxhttpd.cli import CommandError, demo_backend
from pfxhttpd.cli.run import serve_configured

CONFIGURATION = Template("""\
# The configuration of `pfxhttpd demo`. It may be edited while the demo runs; `reload` applies the changes.
server:
  runtime_directory: "$directory"
  listen:
    - kind: socket_map
      name: demo_map
      type: tcp
      address: 127.0.0.1
      port: $map
    - kind: policy_service
      name: demo_policy
      type: tcp
      address: 127.0.0.1
      port: $policy
    - kind: dovecot_sasl
      name: demo_sasl
      type: tcp
      address: 127.0.0.1
      port: $sasl
  worker_pool:
    max_workers: 4
  response_cache:
    enabled: true
    ttl: 5m

socket_maps:
  defaults:
    target: "http://127.0.0.1:$api/lookup"
    payload: '{"map": "{{ .Name }}", "key": "{{ .Key }}"}'
    value_field: data.result
    error_field: error
    timeout: 5s
  demo_map: {}
  demo_domains: {}
  demo_aliases: {}

policy_services:
  demo_policy:
    target: "http://127.0.0.1:$api/policy"
    value_field: policy.result
    timeout: 5s

dovecot_sasl:
  demo_sasl:
    target: "http://127.0.0.1:$api/login"
""")

GUIDE = Template("""\
A demo API at http://127.0.0.1:$api and a pfxhttpd that asks it:
  socket maps      inet:127.0.0.1:$map   demo_map, demo_domains, demo_aliases
  policy service   inet:127.0.0.1:$policy   demo_policy
  SASL             inet:127.0.0.1:$sasl   demo_sasl
The API is $source
The configuration is $configuration

To try in another terminal, as Postfix would ask:
  ask() { $program query "$$@"; }
  ask demo_map 'some one@example.com'      # found
  ask demo_map nobody@example.com          # not found
  ask demo_map outage@example.com          # temporary: the API answers 503
  ask demo_map wrong@example.com           # permanent: the API answers with an error
  ask --policy demo_policy sender=spammer@example.net recipient=alice@example.com
  ask --sasl demo_sasl alice@example.com   # the password is wonderland
or, where Postfix is installed:
  postmap -q 'some one@example.com' socketmap:inet:127.0.0.1:$map:demo_map

In Postfix's main.cf:
  virtual_mailbox_domains = socketmap:inet:127.0.0.1:$map:demo_domains
  virtual_mailbox_maps = socketmap:inet:127.0.0.1:$map:demo_map
  virtual_alias_maps = socketmap:inet:127.0.0.1:$map:demo_aliases
  smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:127.0.0.1:$policy

Ctrl-C stops both. The server's log:
""")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until SIGINT or SIGTERM. Raises `CommandError` when a port is in use or the API does not start."""
    ports = {"map": options.port, "policy": options.port + 1, "api": options.port + 2, "sasl": options.port + 3}
    for port in ports.values():
        _check_free(port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server installs its own
    os.environ["no_proxy"] = "127.0.0.1"  # the HTTP library reads the process's own environment
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pfxhttpd-demo-", ignore_cleanup_errors=True) as directory,
            _backend(ports["api"]),
        ):
            file = Path(directory, "pfxhttp.yml")
            file.write_text(CONFIGURATION.substitute(ports, directory=directory))
            program = f"{_program()} --config {file}"
            print(
                GUIDE.substitute(ports, configuration=file, source=demo_backend.__file__, program=program), flush=True
            )
            own = {**vars(options), "config": str(file), "format": "yaml", "daemon": False, "pidfile": None}
            return serve_configured(argparse.Namespace(**own), _own_environment(environ))
    except KeyboardInterrupt:
        return os.EX_OK


def _check_free(port: int) -> None:
    """Raises `CommandError` if the port cannot be bound, before anything is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CommandError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}; --port BASE chooses four other ports, from BASE on"
            ) from None


@contextmanager
def _backend(port: int) -> Iterator[None]:
    """The demo API as a child process on that loopback port. It ends when this process does, however that happens."""
    with subprocess.Popen(
        [sys.executable, "-I", demo_backend.__file__, str(port), "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        try:
            if child.stdout.readline() != b"ready\n":
                raise CommandError("the demo API did not start")
            yield
        finally:
            # The end of its input alone may not reach it: a worker that has not ended yet may hold the pipe open.
            child.terminate()


def _program() -> str:
    """The shell command by which this program was started."""
    called = sys.argv[0]
    name = os.path.basename(called)
    if name == "__main__.py":
        return shlex.join([sys.executable, "-m", "pfxhttpd"])
    return name if shutil.which(name) == called else shlex.quote(called)


def _own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without variables that are meant for another server and would change the demo."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("PFXHTTP_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))
    }
