"""`pfxhttpd demo`: a first try with nothing installed but the package.

Starts the small API of `pfxhttpd.cli.demo_backend` as a child process, writes a configuration that asks it into a private
directory, says what to type, and then is `pfxhttpd run` with that configuration until it is told to stop.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

from pfxhttpd.cli import demo_backend
from pfxhttpd.cli import run as serve

CANNOT_BIND = 69

FIRST_PORT = 23450
"""Socket maps; the policy service, the HTTP API and SASL follow on the next three."""

CONFIGURATION = Template("""\
# What `pfxhttpd demo` runs with. It may be edited while the demo runs; `reload` then makes it hold.
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


class NoBackend(Exception):
    """The demo API does not come up."""


def port(text: str) -> int:
    """An argparse type: the first of four ports."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65532):
        raise argparse.ArgumentTypeError(f"{text!r} is no port number from 1 to 65532")
    return int(text)


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="a first try: a small HTTP API and a server that asks it",
        description="Runs a small HTTP API and a server that asks it, on loopback, until Ctrl-C.",
    )
    parser.add_argument(
        "--port",
        type=port,
        default=FIRST_PORT,
        metavar="BASE",
        help=f"the first of four ports in a row to listen on (default {FIRST_PORT})",
    )
    parser.set_defaults(run=run)


def program() -> str:
    """How this program was called, so that it can be called again."""
    called = sys.argv[0]
    name = os.path.basename(called)
    if name == "__main__.py":
        return shlex.join([sys.executable, "-m", "pfxhttpd"])
    return name if shutil.which(name) == called else shlex.quote(called)


@contextmanager
def api(number: int) -> Iterator[None]:
    """The demo API as a child on that loopback port. It leaves with us, however we go. Raises NoBackend."""
    child = subprocess.Popen(
        [sys.executable, "-I", demo_backend.__file__, str(number), "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if child.stdout.readline() != b"ready\n":
            raise NoBackend("the demo API did not start")
        yield
    finally:
        child.stdin.close()
        child.terminate()  # beside the end of its input, which a worker that is still leaving may hold open
        child.wait()
        child.stdout.close()


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what a shell may have set for another server, which would change what is shown here."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("PFXHTTP_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))
    }


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    numbers = {"map": options.port, "policy": options.port + 1, "api": options.port + 2, "sasl": options.port + 3}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server has its own
    os.environ["no_proxy"] = "127.0.0.1"  # where the HTTP library looks, whatever it is given
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pfxhttpd-demo-", ignore_cleanup_errors=True) as directory,
            api(numbers["api"]),
        ):
            file = Path(directory, "pfxhttp.yml")
            file.write_text(CONFIGURATION.substitute(numbers, directory=directory))
            print(
                GUIDE.substitute(
                    numbers, configuration=file, source=demo_backend.__file__, program=f"{program()} --config {file}"
                ),
                flush=True,
            )
            own = {**vars(options), "config": str(file), "format": "yaml", "daemon": False, "pidfile": None}
            return serve.serve_configured(argparse.Namespace(**own), own_environment(environ))
    except NoBackend as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        return CANNOT_BIND
    except KeyboardInterrupt:
        return 0
