"""A new connection to a backend, straight or through a proxy, by a deadline.

getaddrinfo(3) has no timeout, and the stock way starts its timeouts anew for every address tried, for every line of a
proxy's answer; so each step is done here, with what is left of the time.
"""

from __future__ import annotations

import base64
import queue
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import unquote

from requests import exceptions
from urllib3.util import Url

from pfxhttpd.io.transport.response import MAX_BODY, ResponseParser
from pfxhttpd.io.transport.stream import Stream, TcpStream, TlsStream

Address = tuple[Any, ...]


def dial(origin: tuple[str, str, int], deadline: float, context: ssl.SSLContext, proxy: Url | None) -> Stream:
    """A line on which a request to the origin can be put; TLS is up for `https`.

    With a proxy: its tunnel for `https`, itself for `http` (the request then names the whole URL).
    Raises `requests.exceptions.ConnectTimeout`, `SSLError`, `ProxyError`, `ConnectionError`.
    """
    scheme, host, port = origin
    if proxy is None:
        stream: Stream = TcpStream(connect(host, port, deadline))
    else:
        stream = _through(proxy, origin, deadline, context)
    return _secured(stream, context, host, deadline) if scheme == "https" else stream


def _through(proxy: Url, origin: tuple[str, str, int], deadline: float, context: ssl.SSLContext) -> Stream:
    """A line to the proxy, or through it when the origin's own TLS is to follow."""
    name = (proxy.host or "").strip("[]")
    try:
        stream: Stream = TcpStream(connect(name, proxy.port or (443 if proxy.scheme == "https" else 80), deadline))
        if proxy.scheme == "https":
            stream = _secured(stream, context, name, deadline)
        if origin[0] == "https":
            _tunnel(stream, origin, proxy, deadline)
        return stream
    except (exceptions.Timeout, exceptions.ProxyError):
        raise
    except exceptions.ConnectionError as error:
        raise exceptions.ProxyError(f"proxy: {error}") from error


def _secured(below: Stream, context: ssl.SSLContext, host: str, deadline: float) -> Stream:
    up = False
    try:
        stream = TlsStream(below, context, host.rstrip("."))
        stream.handshake(deadline)
        up = True
        return stream
    except ssl.SSLError as error:
        raise exceptions.SSLError(f"TLS with {host} failed: {_why(error)}") from error
    except TimeoutError as error:
        raise exceptions.ConnectTimeout(f"TLS with {host} took too long") from error
    except (OSError, ValueError) as error:
        raise exceptions.ConnectionError(f"TLS with {host} failed: {error}") from error
    finally:
        if not up:
            below.close()


def _why(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return error.reason or str(error)


def proxy_authorization(proxy: Url) -> dict[str, str]:
    """The header that names us to the proxy (RFC 9110 section 11.7.2); empty when its URL names nobody."""
    if not proxy.auth:
        return {}
    user, _, password = proxy.auth.partition(":")
    known = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {known}"}


def _tunnel(stream: Stream, origin: tuple[str, str, int], proxy: Url, deadline: float) -> None:
    """Ask for a tunnel (RFC 9110 section 9.3.6). On an error the line is closed."""
    _, host, port = origin
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    head += [f"{name}: {value}" for name, value in proxy_authorization(proxy).items()]
    parser, opened = ResponseParser(MAX_BODY), False
    try:
        stream.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        while not parser.headed:
            data = stream.read(deadline)
            if not data:
                raise exceptions.ProxyError("the proxy closed the connection instead of opening a tunnel")
            parser.feed(data)
        if not 200 <= parser.status < 300:
            raise exceptions.ProxyError(f"the proxy refused a tunnel to {host}: status {parser.status}")
        if parser.raw or parser.surplus:
            raise exceptions.ProxyError("the proxy sent more than its answer")
        opened = True
    except exceptions.ProxyError:
        raise
    except exceptions.RequestException as error:
        raise exceptions.ProxyError(f"the proxy gave no tunnel to {host}: {error}") from error
    except TimeoutError as error:
        raise exceptions.ConnectTimeout(f"the proxy's tunnel to {host} took too long") from error
    except OSError as error:
        raise exceptions.ProxyError(f"the proxy gave no tunnel to {host}: {error.strerror or error}") from error
    finally:
        if not opened:
            stream.close()


def resolve(host: str, port: int, deadline: float) -> list[Address]:
    """getaddrinfo(3), given up at `deadline` (monotonic seconds). A thread waits on in the background, for the
    resolver's own timeout at most; only a worker that opens a new connection to a name pays for one.

    Raises `requests.exceptions.ConnectTimeout`, `requests.exceptions.ConnectionError`.
    """
    found: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask(flags: int = 0) -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
        except (OSError, UnicodeError) as mishap:
            found.put(mishap)

    ask(socket.AI_NUMERICHOST)
    answer = found.get()
    if isinstance(answer, OSError):
        try:
            threading.Thread(target=ask, daemon=True, name="resolver").start()
            answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except RuntimeError as error:
            raise exceptions.ConnectionError(f"cannot resolve {host}: {error}") from error
        except queue.Empty:
            raise exceptions.ConnectTimeout(f"resolving {host} took too long") from None
    if isinstance(answer, Exception):
        raise exceptions.ConnectionError(f"cannot resolve {host}: {answer}") from answer
    return answer


def connect(host: str, port: int, deadline: float) -> socket.socket:
    """A TCP connection to the first address of `host` that takes one. An address that does not answer gets its
    share of the time left, so that a dead IPv6 route does not use up what IPv4 needs.

    Raises `requests.exceptions.ConnectTimeout`, `requests.exceptions.ConnectionError`.
    """
    addresses = resolve(host, port, deadline)
    mishap: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return _connected(socket.socket(family, kind, protocol), address, left / (len(addresses) - index))
        except OSError as error:
            mishap = error
    if mishap is None or isinstance(mishap, TimeoutError):
        raise exceptions.ConnectTimeout(f"connecting to {host} port {port} took too long")
    raise exceptions.ConnectionError(f"cannot connect to {host} port {port}: {mishap.strerror or mishap}")


def _connected(sock: socket.socket, address: Address, patience: float) -> socket.socket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(patience)
        sock.connect(address)
        return sock
    except BaseException:
        sock.close()
        raise
