"""A web server on loopback that keeps what it is sent, and answers as it is told to."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.units import Running


@dataclass(frozen=True, slots=True)
class Got:
    path: str
    headers: Message
    body: bytes
    at_s: float


# A status, a status with headers, or what is done with the connection instead of an answer.
Reply = int | tuple[int, dict[str, str]] | Callable[[BaseHTTPRequestHandler], None]


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)
    handler.close_connection = True


def resets(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()
    handler.close_connection = True


def babbles(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xffSSH-2.0-what\r\n\r\n" * 20)
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler) -> None:
    """An answer that never ends, and never lets anybody wait long for more of it."""
    handler.close_connection = True
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"." * 60:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def dawdles(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.5)
    handler.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    """A good status, and then less than it said."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    handler.close_connection = True


class Receiver:
    """replies: used up one by one, then 200. got: every request that was read whole, whatever was answered."""

    def __init__(self, *replies: Reply, papers: Path | None = None) -> None:
        self.got: list[Got] = []
        self.replies = list(replies)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = receiver.replies.pop(0) if receiver.replies else 200
                receiver.got.append(Got(self.path, self.headers, body, time.monotonic()))
                if callable(reply):
                    reply(self)
                    return
                status, headers = reply if isinstance(reply, tuple) else (reply, {})
                self.send_response(status)
                for name, value in {"Content-Length": "2", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a reset connection
        if papers:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(papers / "broker.pem", papers / "broker.key")
            # The handshake belongs to the connection's own thread, which closes it when it fails.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.url = f"http{'s' if papers else ''}://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


@contextmanager
def receiving(*replies: Reply, papers: Path | None = None) -> Iterator[Receiver]:
    receiver = Receiver(*replies, papers=papers)
    try:
        yield receiver
    finally:
        receiver.close()


def until(shop: Running, condition: Callable[[], bool], within_s: float = 15) -> None:
    """Let the unit deliver until it is so."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        shop.do(shop.unit._pump)
        time.sleep(0.01)
