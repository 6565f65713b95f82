"""Whatever the command line, the environment or the configuration holds: clean lines and an exit code of sysexits.h.

Most of it runs the program's entry point in this process, which is fast. What `run` makes of the environment is tried
with the program itself, which is stopped as soon as it serves.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.examples import examples

from pfxhttpd.__main__ import main
from pfxhttpd.config.environment import entry_variables, server_variables

TREE = Path(__file__).resolve().parents[2]
FORMATS = {"yml": "yaml", "toml": "toml", "json": "json"}

CLEAN_CODES = {
    os.EX_OK,
    1,  # of `query`: not found
    os.EX_USAGE,
    os.EX_UNAVAILABLE,
    os.EX_OSERR,
    os.EX_CANTCREAT,
    os.EX_TEMPFAIL,
    os.EX_NOPERM,
    os.EX_CONFIG,
}
FAULTS_OF_OURS = re.compile(r"Traceback|Internal error|\b[A-Z]\w+(Error|Exception)\b|<.* object at 0x")


def is_long() -> bool:
    """Whether `--long` was given (conftest.py)."""
    return settings.get_current_profile_name() == "long"


USUAL_EXAMPLES = 40
"""Examples of each test in the usual form."""

in_place = settings(
    max_examples=settings.default.max_examples if is_long() else examples(USUAL_EXAMPLES),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""For tests whose examples overwrite the files of the example before."""

VALID = """\
server:
  listen:
    - kind: socket_map
      name: users
      type: tcp
      address: 127.0.0.1
      port: 1
  runtime_directory: DIRECTORY
  logging: {level: info}
  response_cache: {enabled: true, ttl: 1h30m}
socket_maps:
  defaults:
    custom_headers: ["X-A: b"]
  users:
    target: http://127.0.0.1:9/{{ .Key }}
    payload: '{"key": "{{ .Key }}", "n": {{ .Name }}}'
    value_field: data.0.result
    status_code: [200, 404]
"""


class Outcome(NamedTuple):
    code: int
    output: str
    errors: str


def run_here(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, standard_input: bytes = b""
) -> Outcome:
    """The outcome of the program's entry point, in this process. `run` and `demo` go no further than their arguments."""
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(standard_input), encoding="utf-8", errors="surrogateescape"),
        "stdout": io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True),
        "stderr": io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PFXHTTP_", "LISTEN_"))}
    with (
        mock.patch.multiple(sys, **streams),
        mock.patch("pfxhttpd.cli.run.run", return_value=os.EX_OK),
        mock.patch("pfxhttpd.cli.demo.run", return_value=os.EX_OK),
        mock.patch.dict(os.environ, {**kept, "PFXHTTP_NOTHING": "", **(environment or {})}, clear=True),
    ):
        code = main(arguments)
        texts = [streams[name].buffer.getvalue().decode("utf-8") for name in ("stdout", "stderr")]  # type: ignore[attr-defined]
    return Outcome(code, *texts)


def check_clean(outcome: Outcome) -> None:
    """Fails unless the outcome is one that an administrator can work with."""
    assert outcome.code in CLEAN_CODES, outcome
    assert not FAULTS_OF_OURS.search(outcome.errors), outcome.errors
    if outcome.code not in (os.EX_OK, 1):
        assert outcome.errors.strip(), "an error without a word"
    for line in outcome.errors.splitlines():
        assert line.isprintable(), line
    assert len(outcome.errors) < 100_000


# The configuration.


def valid(form: str, directory: object) -> str:
    import yaml

    text = VALID.replace("DIRECTORY", str(directory))
    if form == "yml":
        return text
    document = yaml.safe_load(text)
    return json.dumps(document, indent=1) if form == "json" else toml(document)


def toml(document: Mapping[str, object]) -> str:
    def inline(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join([f"{json.dumps(key)} = {inline(each)}" for key, each in value.items()]) + "}"
        if isinstance(value, list):
            return "[" + ", ".join([inline(each) for each in value]) + "]"
        return json.dumps(value)

    return "\n".join([f"{key} = {inline(value)}" for key, value in document.items()]) + "\n"


PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            b"\0", b"\r", b"\n", b"\t", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1b[31m", b"\x85",
            b"{", b"}", b"[", b"]", b":", b": ", b"- ", b"'", b'"', b"#", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ",
            b"!!binary ", b"---\n", b"...\n", b"? ", b"|", b">", b"%YAML 9.9\n", b"~", b"null", b"1e999", b"0x1F", b"0o17",
            b"1_000", b".inf", b".nan", b"nan", b"9" * 5000, b"-0", b"2001-01-01", b"12:30:45", b"true", b"yes", b"=", b"\\",
            b"\\u0000", b"\\ud800", b'"""', b"'''", b"[[server]]\n", b"[server]\n", b"a.b.c = 1\n", b"{{ .Key }}", b"{{", b"[" * 2000,
            b"{" * 2000, b"\xc3\xbc", b"http://[::1", b"http://a:99999/", b"/dev/zero", b"/dev/null", b"/proc/self/mem", b".",
            b"defaults", b"client_secret_file: /dev/zero\n", b"root_ca: /\n", b"5m", b"-5s", b"1000000h",
        ]
    ),
)  # fmt: skip
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["insert", "replace", "cut", "copy"]), PIECES), max_size=6)


def edited(data: bytes, edits: Sequence[tuple[float, str, bytes]]) -> bytes:
    """The data after each of the edits, whose places are given as a fraction of its length."""
    for place, how, piece in edits:
        at = int(place * len(data))
        after = {"insert": at, "replace": at + len(piece), "cut": at + 3 * len(piece), "copy": max(0, at - 40)}[how]
        data = data[:at] + (b"" if how == "cut" else piece) + data[after:]
    return data


@in_place
@pytest.mark.parametrize("form", FORMATS)
@given(edits=EDITS, command=st.sampled_from(["check", "config"]))
def test_a_configuration_that_was_edited_blindly(
    tmp_path: Path, form: str, edits: Sequence[tuple[float, str, bytes]], command: str
) -> None:
    path = tmp_path / f"pfxhttp.{form}"
    path.write_bytes(edited(valid(form, tmp_path).encode(), edits))
    outcome = run_here(["--config", str(path), command])
    check_clean(outcome)
    assert outcome.code in (os.EX_OK, os.EX_CONFIG)
    if outcome.code:
        for line in outcome.errors.splitlines():
            assert re.match(rf"{re.escape(str(path))}(:\d+:\d+)?: ", line), line


@in_place
@pytest.mark.parametrize("form", FORMATS)
@given(content=st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join)))
@example(content=b"")
def test_a_configuration_of_any_bytes(tmp_path: Path, form: str, content: bytes) -> None:
    path = tmp_path / "anything"
    path.write_bytes(content)
    outcome = run_here(["--format", FORMATS[form], "--config", str(path), "check"])
    check_clean(outcome)
    assert outcome.code == os.EX_CONFIG


def test_the_valid_configuration_is_valid(tmp_path: Path) -> None:
    """What is edited above has to be valid to begin with, or only the first error would be tested."""
    for form in FORMATS:
        path = tmp_path / f"pfxhttp.{form}"
        path.write_text(valid(form, tmp_path))
        assert run_here(["--config", str(path), "check"]).code == os.EX_OK


# The command line.

ODD_TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
    st.binary(max_size=10).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),  # what argv makes of it
    st.sampled_from(
        ["", "-", "--", "-1", "0", "\x1b[2J", "a\nb", "\ud800", "\udcff", "x" * 5000, "%s%n", "=", "é", "\u202e"]
    ),
)
SWITCHES = st.sampled_from(
    ["--help", "-h", "--version", "--json", "--daemon", "--strict", "--policy", "--sasl", "--address", "--timeout", "--format",
     "--conf", "--con=x", "--pidfile", "--port", "--nothing", "--format=ini"]
)  # fmt: skip
VALUES = st.one_of(
    ODD_TEXTS,
    SWITCHES,
    st.sampled_from(["users", "key", "purge", "a=b", "yaml", "toml", "1s", "0", "-1s", "1h", "1e9h", "65533", "unix:/dev/null",
                     "unix:", "unix:" + "x" * 200, "inet:127.0.0.1:1", "inet:127.0.0.1:99999", "inet:[::1]:1", "inet:", ":"]),
)  # fmt: skip
COMMANDS = st.sampled_from(["run", "check", "config", "query", "status", "cache", "stop", "reload", "demo"])


@in_place
@given(
    command=COMMANDS,
    switches=st.lists(SWITCHES, max_size=1),
    values=st.lists(VALUES, max_size=5),
    standard_input=st.one_of(st.just(b"password\n"), st.binary(max_size=20)),
)
def test_arguments_with_a_valid_configuration(
    tmp_path: Path, command: str, switches: list[str], values: list[str], standard_input: bytes
) -> None:
    path = tmp_path / "pfxhttp.yml"
    path.write_text(valid("yml", tmp_path))
    arguments = ["--config", str(path), *switches, command, *values]
    check_clean(run_here(arguments, standard_input=standard_input))


@in_place
@given(
    place=st.one_of(
        ODD_TEXTS, st.sampled_from(["/dev/null", "/", "/proc/self/mem", "/nowhere/x.yml", "/dev/null/x", "x.ini"])
    ),
    command=st.one_of(COMMANDS, st.sampled_from(["", "RUN", "help"]), ODD_TEXTS),
    values=st.lists(VALUES, max_size=4),
)
def test_arguments_without_one(tmp_path: Path, place: str, command: str, values: list[str]) -> None:
    with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}):
        check_clean(run_here(["--config", place.replace("..", ""), command, *values]))


# The environment.

SERVER_VARIABLES = st.sampled_from(sorted({**server_variables(), **entry_variables("socket_maps", ["demo"])}))
ENVIRONMENT_VALUES = st.one_of(
    ODD_TEXTS.filter(lambda text: "\ud800" not in text),
    st.sampled_from(["true", "no", "1", "-1", "999999999999999999999", "1.5", "5m", "1e5", "0777", "debug", "root", "nobody",
                     "/", "/nowhere", "/dev/null", "/dev/zero", "http://[", "socks5://x", "[]", "{}"]),
)  # fmt: skip


@in_place
@given(
    environment=st.dictionaries(
        st.one_of(
            SERVER_VARIABLES,
            ODD_TEXTS.map(lambda text: "PFXHTTP_SERVER_" + text.replace("=", "").replace("\ud800", "")),
            ODD_TEXTS.map(lambda text: "PFXHTTP_SOCKET_MAPS_" + text.replace("=", "").replace("\ud800", "")),
        ),
        ENVIRONMENT_VALUES,
        max_size=4,
    ),
    command=st.sampled_from(["check", "config"]),
)
@example(environment={"PFXHTTP_SERVER_CIRCUIT_BREAKER_FAILURES": "7\x1f"}, command="check")
def test_overrides_from_the_environment(tmp_path: Path, environment: Mapping[str, str], command: str) -> None:
    path = tmp_path / "pfxhttp.yml"
    path.write_text(valid("yml", tmp_path))
    outcome = run_here(["--config", str(path), command], environment)
    check_clean(outcome)
    assert outcome.code in (os.EX_OK, os.EX_CONFIG)


NUMBERS = st.sampled_from(["", "0", "1", "2", "3", "-1", "+1", " 1", "1 ", "01", "4095", "4096", "99999999999999999999", "x", "1.0", "\u0661", "PID"])  # fmt: skip
PATHS = st.sampled_from(["", "@", "@x", "@" + "x" * 200, "/dev/null", "/nowhere/x", "/" + "x" * 200, "x", "vsock:2:1", "\udcff", "INSIDE/socket"])  # fmt: skip
SERVICE_VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        "LISTEN_PID": NUMBERS,
        "LISTEN_FDS": NUMBERS,
        "LISTEN_FDNAMES": st.sampled_from(["", "x", "x:y", ":", "x" * 300, "\udcff", "a\nb"]),
        "NOTIFY_SOCKET": PATHS,
        "WATCHDOG_USEC": NUMBERS,
        "WATCHDOG_PID": NUMBERS,
        "RUNTIME_DIRECTORY": st.sampled_from(
            ["", "x", "INSIDE/a", "INSIDE/a:INSIDE/b", "/dev/null", "/dev/null/x", "/proc/x", "INSIDE/" + "x" * 90,
             "INSIDE/" + "x" * 300, "INSIDE/\udcff", "INSIDE/a\nb", "INSIDE/file"]
        ),
        "PFXHTTP_SERVER_LOGGING_SYSLOG": st.sampled_from(["mail", "x"]),
        "PFXHTTP_SERVER_RUN_AS_USER": st.sampled_from(["nobody", "no-such-user", "0"]),
        "PFXHTTP_SERVER_CHROOT": st.sampled_from(["INSIDE", "/nowhere", "x"]),
        "PFXHTTP_SERVER_WORKER_POOL_MAX_WORKERS": st.just("1"),
        "PIDFILE": st.sampled_from(["/dev/null", "/", "INSIDE/fifo", "INSIDE/none/x", "INSIDE/" + "x" * 300, "INSIDE/pid"]),
        "TZ": st.sampled_from(["", "x" * 1000, ":/dev/null", "\udcff"]),
        "LANG": st.sampled_from(["C", "xx_YY"]),
    },
)  # fmt: skip
STARTS, LONG_STARTS = 3, 300
"""How many times a server is started, in the usual and in the long form."""


def test_the_environment_of_a_start(tmp_path: Path) -> None:
    @settings(
        max_examples=LONG_STARTS if is_long() else STARTS, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(SERVICE_VARIABLES)
    @example({"LISTEN_PID": "PID", "LISTEN_FDS": "1"})
    @example({"LISTEN_PID": "PID", "LISTEN_FDS": "99999999999999999999"})
    @example({"RUNTIME_DIRECTORY": "INSIDE/file"})
    def try_start(environment: Mapping[str, str]) -> None:
        check_clean(start(tmp_path, environment))

    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    try_start()


def start(directory: Path, environment: Mapping[str, str]) -> Outcome:
    """The outcome of `run` in this environment; a server that serves is stopped."""
    from kit import ports

    path = directory / "pfxhttp.yml"
    path.write_text(
        valid("yml", directory).replace("port: 1", f"port: {ports.free()}").replace("  runtime_directory", "  #")
    )
    resolved = {name: value.replace("INSIDE", str(directory)) for name, value in environment.items()}
    pidfile = ["--pidfile", resolved.pop("PIDFILE")] if "PIDFILE" in resolved else []
    # The shell's process id is the server's, since exec keeps it.
    script = 'for name in LISTEN_PID LISTEN_FDS WATCHDOG_PID; do eval "[ \\"\\$$name\\" = PID ] && export $name=$$"; done; exec "$@"'
    server = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", sys.executable, "-m", "pfxhttpd", "--config", str(path), "run", *pidfile],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE), "RUNTIME_DIRECTORY": str(directory / "run"), **resolved},
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert server.stdout and server.stderr
    try:
        output = ""
        for line in server.stdout:
            output += line.decode(errors="backslashreplace")
            if b'msg="Ready"' in line or b"msg=Ready" in line:
                server.send_signal(signal.SIGTERM)
        errors = server.stderr.read().decode(errors="backslashreplace")
        return Outcome(server.wait(20), output, errors)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        server.stdout.close()
        server.stderr.close()
