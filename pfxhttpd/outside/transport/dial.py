"""A new connection to a backend, straight or through a proxy, by a deadline.

urllib3 does what is easy to get wrong: TLS, host name checks, CONNECT. Resolving and connecting are done here because
its timeouts start anew for every address tried, and because getaddrinfo(3) has none.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from typing import Any

from requests import exceptions
from requests.auth import _basic_auth_str
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ProxyError as TunnelError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.util import Url

Address = tuple[Any, ...]


def resolve(host: str, port: int, deadline: float) -> list[Address]:
    """getaddrinfo(3), given up at `deadline` (monotonic seconds). A thread waits on in the background, for the
    resolver's own timeout at most; only a worker that opens a new connection to a name pays for one.

    Raises `requests.exceptions.ConnectTimeout`, `OSError`.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    found: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as mishap:
            found.put(mishap)

    threading.Thread(target=ask, daemon=True, name="resolver").start()
    try:
        answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise exceptions.ConnectTimeout(f"resolving {host} took too long") from None
    if isinstance(answer, Exception):
        raise exceptions.ConnectionError(f"cannot resolve {host}: {answer}") from answer
    return answer


def open_socket(host: str, port: int, deadline: float, options: Any) -> socket.socket:
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
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            sock.settimeout(left / (len(addresses) - index))
            sock.connect(address)
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            return sock
        except OSError as error:
            sock.close()
            mishap = error
    if mishap is None or isinstance(mishap, TimeoutError):
        raise exceptions.ConnectTimeout(f"connecting to {host} port {port} took too long")
    raise exceptions.ConnectionError(f"cannot connect to {host} port {port}: {mishap.strerror or mishap}")


class _Plain(HTTPConnection):
    deadline = 0.0

    def _new_conn(self) -> socket.socket:
        return open_socket(self._dns_host, self.port, self.deadline, self.socket_options)


class _Secure(HTTPSConnection):
    deadline = 0.0

    def _new_conn(self) -> socket.socket:
        return open_socket(self._dns_host, self.port, self.deadline, self.socket_options)


def proxy_credentials(proxy: Url) -> dict[str, str]:
    if not proxy.auth:
        return {}
    user, _, password = proxy.auth.partition(":")
    return {"Proxy-Authorization": _basic_auth_str(user, password)}


def dial(
    scheme: str, host: str, port: int, deadline: float, context: ssl.SSLContext | None, proxy: Url | None
) -> socket.socket:
    """A socket on which a request to the origin can be written; TLS is up for `https`.

    With a proxy: its tunnel for `https`, itself for `http` (the request line then names the whole URL).
    Raises `requests.exceptions.ConnectTimeout`, `SSLError`, `ProxyError`, `ConnectionError`.
    """
    near_host, near_port = (proxy.host or "", proxy.port or 80) if proxy else (host, port)
    connection: _Plain | _Secure
    if scheme == "https":
        connection = _Secure(near_host, near_port, ssl_context=context)
        if proxy:
            connection.set_tunnel(host, port, headers=proxy_credentials(proxy), scheme="http")
    else:
        connection = _Plain(near_host, near_port)
    connection.deadline = deadline
    try:
        connection.connect()
    except exceptions.RequestException as error:
        if proxy and not isinstance(error, exceptions.Timeout):
            raise exceptions.ProxyError(str(error)) from error
        raise
    except (UrllibSSLError, ssl.SSLError) as error:
        connection.close()
        raise exceptions.SSLError(f"TLS with {host} failed: {error}") from error
    except TimeoutError as error:
        connection.close()
        raise exceptions.ConnectTimeout(f"TLS with {host} took too long") from error
    except TunnelError as error:
        connection.close()
        raise exceptions.ProxyError(str(error)) from error
    except (HTTPError, OSError) as error:
        connection.close()
        if proxy:
            raise exceptions.ProxyError(f"the proxy gave no tunnel to {host}: {error}") from error
        raise exceptions.ConnectionError(f"connecting to {host} failed: {error}") from error
    sock = connection.sock
    connection.sock = None
    return sock
