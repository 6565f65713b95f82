"""A new connection to a backend, direct or through a proxy, by a deadline.

getaddrinfo(3) has no timeout, and urllib3 starts its timeouts anew for every address and for every line of a proxy's
response. So each step is done here, with the time that is left.
"""

from __future__ import annotations

import base64
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from requests import exceptions
from urllib3.util import Url

from pfxhttpd.io.transport.response import MAX_BODY, ResponseParser
from pfxhttpd.io.transport.stream import OnWait, Stream, TcpStream, TlsStream
from pfxhttpd.io.transport.tls_reason import tls_reason

Address = tuple[Any, ...]
OnStep = Callable[[str], None]
"""Called when a step of connecting has ended, with its name: resolve, connect, tunnel or TLS."""


def ignore_step(step: str) -> None:
    """Nothing has to be done when a step has ended."""


def dial(
    origin: tuple[str, str, int],
    deadline: float,
    context: ssl.SSLContext,
    proxy: Url | None,
    on_wait: OnWait,
    on_step: OnStep = ignore_step,
) -> Stream:
    """A stream that is ready for a request to the origin, with TLS for `https`.

    With a proxy, it leads through the proxy's tunnel for `https`, and to the proxy itself for `http` (whose request line
    then has the whole URL).
    `on_wait` is the stream's. Raises `requests.exceptions.ConnectTimeout`, `SSLError`, `ProxyError`, `ConnectionError`.
    """
    scheme, host, port = origin
    if proxy is None:
        stream: Stream = TcpStream(connect(host, port, deadline, on_step), on_wait)
    else:
        stream = _connect_proxy(proxy, origin, deadline, context, on_wait, on_step)
    return _start_tls(stream, context, host, deadline, on_step) if scheme == "https" else stream


def _connect_proxy(
    proxy: Url,
    origin: tuple[str, str, int],
    deadline: float,
    context: ssl.SSLContext,
    on_wait: OnWait,
    on_step: OnStep,
) -> Stream:
    """A stream to the proxy, or through its tunnel if the origin's own TLS is to follow."""
    name = (proxy.host or "").strip("[]")
    try:
        port = proxy.port or (443 if proxy.scheme == "https" else 80)
        stream: Stream = TcpStream(connect(name, port, deadline, on_step), on_wait)
        if proxy.scheme == "https":
            stream = _start_tls(stream, context, name, deadline, on_step)
        if origin[0] == "https":
            _tunnel(stream, origin, proxy, deadline)
            on_step("tunnel")
        return stream
    except (exceptions.Timeout, exceptions.ProxyError):
        raise
    except exceptions.ConnectionError as error:
        raise exceptions.ProxyError(f"proxy: {error}") from error


def _start_tls(transport: Stream, context: ssl.SSLContext, host: str, deadline: float, on_step: OnStep) -> Stream:
    established = False
    try:
        stream = TlsStream(transport, context, host.rstrip("."))
        stream.handshake(deadline)
        on_step("TLS")
        established = True
        return stream
    except ssl.SSLError as error:
        raise exceptions.SSLError(tls_reason(error, context)) from error
    except TimeoutError as error:
        raise exceptions.ConnectTimeout(f"TLS with {host} took too long") from error
    except (OSError, ValueError) as error:
        raise exceptions.ConnectionError(f"TLS failed: {error}") from error
    finally:
        if not established:
            transport.close()


def proxy_authorization(proxy: Url) -> dict[str, str]:
    """The header with the credentials of the proxy's URL (RFC 9110 section 11.7.2), if it has any."""
    if not proxy.auth:
        return {}
    user, _, password = proxy.auth.partition(":")
    credentials = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {credentials}"}


def _tunnel(stream: Stream, origin: tuple[str, str, int], proxy: Url, deadline: float) -> None:
    """Request a tunnel (RFC 9110 section 9.3.6). On an error the stream is closed."""
    _, host, port = origin
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
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
    """getaddrinfo(3) with a deadline (monotonic seconds). It runs in a thread, which goes on in the background after the
    deadline, until the resolver's own timeout. An address needs no thread.

    Raises `requests.exceptions.ConnectTimeout`, `requests.exceptions.ConnectionError`.
    """
    found: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up(flags: int = 0) -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
        except (OSError, UnicodeError) as error:
            found.put(error)

    look_up(socket.AI_NUMERICHOST)
    answer = found.get()
    if isinstance(answer, OSError):
        try:
            threading.Thread(target=look_up, daemon=True, name="resolver").start()
            answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except RuntimeError as error:
            raise exceptions.ConnectionError(f"cannot resolve {host}: {error}") from error
        except queue.Empty:
            raise exceptions.ConnectTimeout(f"resolving {host} took too long") from None
    if isinstance(answer, Exception):
        raise exceptions.ConnectionError(f"cannot resolve {host}: {answer}") from answer
    return answer


def connect(host: str, port: int, deadline: float, on_step: OnStep = ignore_step) -> socket.socket:
    """A TCP connection to the first address of `host` that accepts one. The time left is shared between the addresses, so
    that a dead IPv6 route does not use up the time that IPv4 needs.

    Raises `requests.exceptions.ConnectTimeout`, `requests.exceptions.ConnectionError`.
    """
    addresses = resolve(host, port, deadline)
    on_step("resolve")
    failure: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            connected = _connected(socket.socket(family, kind, protocol), address, left / (len(addresses) - index))
            on_step("connect")
            return connected
        except OSError as error:
            failure = error
    if failure is None or isinstance(failure, TimeoutError):
        raise exceptions.ConnectTimeout(f"connecting to {host} port {port} took too long")
    raise exceptions.ConnectionError(f"cannot connect to {host} port {port}: {failure.strerror or failure}")


def _connected(sock: socket.socket, address: Address, timeout: float) -> socket.socket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout)
        sock.connect(address)
        return sock
    except BaseException:
        sock.close()
        raise
