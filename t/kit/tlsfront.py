"""TLS in front of a plain server: what a client sends inside TLS goes to the server, and back."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

from kit.server import ServerTls


class TlsFront:
    """Listens on a loopback port from construction until the context ends."""

    def __init__(self, port: int, tls: ServerTls) -> None:
        """`port` is the plain server's."""
        self._behind = ("127.0.0.1", port)
        self._context = tls.context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TlsFront:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self._behind) as behind:
            with self._context.wrap_socket(client, server_side=True) as inside:
                self._open += [inside, behind]
                inside.settimeout(10)
                while data := _next(inside, behind):
                    source, piece = data
                    (behind if source is inside else inside).sendall(piece)


def _next(inside: ssl.SSLSocket, behind: socket.socket) -> tuple[socket.socket, bytes] | None:
    """The next bytes, and from which side; None at the end of either. One thread hears both: they share no SSL object."""
    ready = [inside] if inside.pending() else select.select([inside, behind], [], [])[0]
    data = ready[0].recv(65536)
    return (ready[0], data) if data else None
