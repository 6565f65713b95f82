"""What a server does in its jail, tried in a process that has only what `preload` loaded.

`preload_exercises.py ROOT` preloads, enters ROOT if it is not "-", does everything below and prints a JSON object: what
failed, and which modules were imported late. The functions import inside of themselves on purpose.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

IDN_HOST = "b\u00fccher.jail.test"
"""A name that the jail's etc/hosts holds in its encoded form, for 127.0.0.1."""


def _serve(reply: bytes) -> int:
    """The port of a server that answers one connection."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(reply)

    threading.Thread(target=answer, daemon=True).start()
    return int(listener.getsockname()[1])


def ask_a_backend() -> None:
    import gzip

    import requests

    body = gzip.compress(b'{"data": "b\xc3\xbccher"}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nSet-Cookie: a=b; Expires=Wed, 21 Oct 2037 07:28:00 GMT\r\n"
    port = _serve(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"http://127.0.0.1:{port}/a?b=c", json={"key": "k"}, headers={"X": "y"}, timeout=5)
        assert answer.json() == {"data": "b\u00fccher"}


def read_a_strange_body() -> None:
    import requests

    port = _serve(b"HTTP/1.0 500 No\r\nContent-Type: text/plain\r\n\r\nb\xfccher \xe4\xf6\xfc und so weiter")
    answer = requests.get(f"http://127.0.0.1:{port}/", timeout=5)
    assert answer.status_code == 500 and answer.text
    try:
        answer.json()
    except requests.exceptions.JSONDecodeError:
        pass


def ask_a_backend_that_is_not_there() -> None:
    import requests

    port = _serve(b"")
    for url in (
        f"http://127.0.0.1:{port}/",
        "http://127.0.0.1:1/",
        "http://[/",
        "nothing://x/",
        f"https://127.0.0.1:{_serve(b'no TLS')}/",
    ):
        session = requests.Session()
        session.trust_env = False
        try:
            session.get(url, timeout=5, verify=False)
        except (requests.exceptions.RequestException, ValueError):
            traceback.format_exc()
        else:
            raise AssertionError(url)


def use_a_proxy() -> None:
    import requests

    port = _serve(b"HTTP/1.1 502 No\r\n\r\n")
    try:
        requests.get("https://127.0.0.1:1/", verify=False, proxies={"https": f"http://u:p@127.0.0.1:{port}"}, timeout=5)
    except requests.exceptions.ProxyError:
        pass


def resolve_names() -> None:
    import socket

    assert socket.getaddrinfo("localhost", 80)
    for host in ("two..dots", "\u2603" * 70):
        try:
            socket.getaddrinfo(host, 80)
        except (socket.gaierror, UnicodeError):
            pass


def encode_names() -> None:
    import idna

    assert IDN_HOST.encode("idna") == idna.encode(IDN_HOST, uts46=True) and b"a".decode("punycode")


def sign_and_check_tokens() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from jose import jwk, jwt
    from jose.exceptions import JWTError

    for algorithm, key in (
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("PS256", None),
        ("RS512", None),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("ES384", ec.generate_private_key(ec.SECP384R1())),
    ):
        if key is None:
            continue
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        token = jwt.encode({"aud": "x", "exp": 4102444800}, pem.decode(), algorithm=algorithm, headers={"kid": "1"})
        public = jwk.construct(pem.decode(), algorithm).public_key().to_dict()
        assert jwt.decode(token, public, algorithms=[algorithm], audience="x")["aud"] == "x"
        try:
            jwt.decode(token[:-8] + "AAAAAAAA", public, algorithms=[algorithm], audience="x")
        except JWTError:
            pass
        else:
            raise AssertionError("a changed signature passed")
    from pfxhttpd.io.oidc.assertion import SigningKey
    from pfxhttpd.io.oidc.keys import Verifier
    from pfxhttpd.rules.jwt import TokenRefused, read_jwt
    from pfxhttpd.rules.key_set import parse_key_set

    signer = ed25519.Ed25519PrivateKey.generate()
    pem = signer.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = read_jwt(SigningKey(pem.decode()).sign({"sub": "x", "exp": 1}))
    x = jwk.construct(signer.public_key(), "EdDSA").to_dict()
    keys = parse_key_set(json.dumps({"keys": [x]}).encode())
    Verifier().check(signed, keys.candidates(signed.key_id, signed.algorithm))
    try:
        Verifier().check(signed._replace(signature=b"x" * 64), keys.candidates("", "EdDSA"))
    except TokenRefused:
        pass
    else:
        raise AssertionError("a changed signature passed")


def share_through_a_manager() -> None:
    import multiprocessing
    import os
    from multiprocessing.managers import SyncManager

    os.makedirs("/tmp", exist_ok=True)
    manager = SyncManager(address=f"/tmp/manager-{os.getpid()}", authkey=b"x", ctx=multiprocessing.get_context("fork"))
    manager.start()
    try:
        shared = manager.dict()
        shared["a"] = (1, b"x")
        assert dict(shared) == {"a": (1, b"x")}
    finally:
        manager.shutdown()


def end_a_thread() -> None:
    import threading

    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def read_a_configuration() -> None:
    from pfxhttpd.config.errors import ConfigError
    from pfxhttpd.config.load import load_text

    good = {
        "server": {
            "listen": [{"kind": "socket_map", "name": "a", "type": "tcp", "address": "127.0.0.1", "port": 2345}]
        },
        "socket_maps": {"a": {"target": "https://api.example/{{ .Key }}", "value_field": "v"}},
    }
    load_text(json.dumps(good), "/x.json", "json", {"PFXHTTP_SERVER_LOGGING_LEVEL": "debug"})
    for form, text in (
        ("yaml", "server:\n  listen: {a: [1, 2}\n"),
        ("yaml", "server: {lisen: []}\nx: !!binary aa"),
        ("yaml", "server: {listen: [{kind: socket_map, prot: 1}]}"),
        ("toml", "a = 1\na = 2"),
        ("toml", "[server]\nlisten = 'x'\nwhen = 1979-05-27T07:32:00Z"),
        ("json", '{"a": 1, "a": 2}'),
        ("json", '{"server": {"client_idle_timeout": "3 parsecs"}}'),
    ):
        try:
            load_text(text, "/x", form, {})
        except ConfigError as mistakes:
            str(mistakes)
        else:
            raise AssertionError(text)


def tell_the_time() -> None:
    import time
    from datetime import datetime

    time.strftime("%c %Z", time.localtime())
    datetime.strptime("2026-01-02", "%Y-%m-%d")
    datetime.fromisoformat("2026-01-02T03:04:05+01:00").astimezone().isoformat()


def use_tls() -> None:
    import ssl

    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_alpn_protocols(["http/1.1"])
    ssl.create_default_context(cadata=None)


def show_metrics() -> None:
    from prometheus_client.core import GaugeMetricFamily

    from pfxhttpd.io.metrics.exposition import exposition

    for accept in (
        "",
        "application/openmetrics-text; version=1.0.0",
        "text/plain; version=1.0.0; escaping=allow-utf-8",
    ):
        text, _ = exposition([GaugeMetricFamily("x", "y", value=1)], accept)
        assert b"x 1.0" in text


def log_and_title() -> None:
    import setproctitle

    from pfxhttpd.config.settings import Logging
    from pfxhttpd.io.log import Logger

    setproctitle.setproctitle("jailed")
    log = Logger.open(Logging(json=True), stream_fd=99)
    log.info("x", error=ValueError("b\u00fccher"))


def send_traces() -> None:
    """To a collector that takes them, and to one that is not there; `load` has been called before, as by the master."""
    import ssl

    from pfxhttpd.config.settings import Observability
    from pfxhttpd.io.otlp.tracer import Tracer
    from pfxhttpd.io.transport.adapter import Transport
    from pfxhttpd.io.transport.session import DirectSession

    for port, lost in ((_serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 0), (1, 4)):
        session = DirectSession(Transport(ssl.create_default_context()))
        tracer = Tracer(Observability(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{port}"), session)
        trace = tracer.begin()
        assert trace is not None
        trace.decoded("socket_map", "m", "l")
        trace.start_exchange("POST /", {"server.port": 80}).fail(ConnectionError())
        trace.decided("failed")
        tracer.finish()
        tracer.close()
        assert tracer.take_losses() == (lost, 0), tracer.problem


def send_metrics() -> None:
    import ssl

    from prometheus_client.core import CounterMetricFamily

    from pfxhttpd.config.settings import Observability
    from pfxhttpd.io.otlp.metric_exporter import MetricExporter
    from pfxhttpd.io.transport.adapter import Transport
    from pfxhttpd.io.transport.session import DirectSession

    family = CounterMetricFamily("a", "A.", value=1)
    port = _serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    session = DirectSession(Transport(ssl.create_default_context()))
    settings = Observability(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{port}")
    assert MetricExporter(settings, session).send([family], 1.0) == ""


def find_what_only_the_jail_knows() -> None:
    import socket

    import requests

    assert socket.getaddrinfo(IDN_HOST, 80, socket.AF_INET)[0][4][0] == "127.0.0.1"
    port = _serve(b"HTTP/1.1 204 OK\r\n\r\n")
    assert requests.get(f"http://{IDN_HOST}:{port}/", timeout=5).status_code == 204


EVERYWHERE: tuple[Callable[[], None], ...] = (
    ask_a_backend,
    read_a_strange_body,
    ask_a_backend_that_is_not_there,
    use_a_proxy,
    resolve_names,
    encode_names,
    sign_and_check_tokens,
    share_through_a_manager,
    end_a_thread,
    read_a_configuration,
    tell_the_time,
    use_tls,
    show_metrics,
    log_and_title,
    send_traces,
    send_metrics,
)


def main(root: str) -> dict[str, Any]:
    from pfxhttpd.config.settings import Observability
    from pfxhttpd.io import jail, otlp

    otlp.load(Observability(otel_enabled=True, otel_traces_enabled=True, otel_metrics_enabled=True))
    jail.preload("pfxhttpd")
    if root != "-":
        identity = jail.resolve("nobody", "", root)
        jail.enter(root)
        jail.drop(identity)
    before = set(sys.modules)
    failed = {}
    for exercise in EVERYWHERE + ((find_what_only_the_jail_knows,) if root != "-" else ()):
        try:
            exercise()
        except Exception:
            failed[exercise.__name__] = traceback.format_exc()
    return {"failed": failed, "late": sorted(set(sys.modules) - before)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
