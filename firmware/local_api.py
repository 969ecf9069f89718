"""The unit's local socket: what a command asks of the running unit. A connection is one line of JSON, and one back.

The socket lies in the data folder, for the unit's own user only.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_NAME = "unit.sock"
_MOST_BYTES = 1 << 20
_PATIENCE_S = 60.0
_REQUEST_S = 2.0  # a request is one short line, and others wait behind who is slow with it

Request = dict[str, Any]
Answer = dict[str, Any]


class LocalError(Exception):
    """The unit did not do what it was asked for: one sentence."""


@contextmanager
def address_below(directory: Path, name: str) -> Iterator[str]:
    """A socket's path, short enough for any folder (a socket's name has 108 bytes at most)."""
    descriptor = os.open(directory, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class LocalRefused(LocalError):
    """The unit runs, and says why it does not do it."""


class LocalServer:
    """Takes requests on a thread of its own; answer_all() answers them on the loop's. asked: has it called, there."""

    def __init__(self, directory: Path, asked: Callable[[], None] = lambda: None) -> None:
        self._directory, self._asked = directory, asked
        self._waiting: queue.SimpleQueue[tuple[Request, queue.SimpleQueue[Answer]]] = queue.SimpleQueue()
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen. A socket that cannot be made is logged, and stops nothing."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            (self._directory / _NAME).unlink(missing_ok=True)
            with address_below(self._directory, _NAME) as address:
                server.bind(address)
            (self._directory / _NAME).chmod(0o600)
            server.listen(4)
        except OSError as error:
            server.close()
            log.warning("event=local_socket_failed reason=%s", error.strerror)
            return
        self._socket = server
        threading.Thread(target=self._serve, args=(server,), name="local", daemon=True).start()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    request = json.loads(_line(connection))
                    if not isinstance(request, dict):
                        continue
                    reply: queue.SimpleQueue[Answer] = queue.SimpleQueue()
                    self._waiting.put((request, reply))
                    self._asked()
                    answer = json.dumps(reply.get(timeout=_PATIENCE_S)).encode() + b"\n"
                    connection.settimeout(_REQUEST_S)
                    connection.sendall(answer)
                except (OSError, ValueError, RecursionError, queue.Empty):
                    continue  # who asked gets no answer, and says so

    def answer_all(self, answer: Callable[[Request], Answer]) -> None:
        """Answer what is waiting. Thread: the loop."""
        while True:
            try:
                request, reply = self._waiting.get_nowait()
            except queue.Empty:
                return
            reply.put(answer(request))

    def close(self) -> None:
        if self._socket:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
            (self._directory / _NAME).unlink(missing_ok=True)


def _line(connection: socket.socket) -> bytes:
    """What is sent up to the line's end. Raises TimeoutError when all of it takes too long."""
    until, data = time.monotonic() + _REQUEST_S, bytearray()
    while not data.endswith(b"\n") and len(data) < _MOST_BYTES:
        connection.settimeout(max(0.001, until - time.monotonic()))
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return bytes(data)


def ask(directory: Path, request: Mapping[str, Any]) -> Answer:
    """Ask the unit that runs on this data folder. Raises LocalError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_PATIENCE_S)
            with address_below(directory, _NAME) as address:
                client.connect(address)
            with client.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer: Answer = json.loads(stream.readline(_MOST_BYTES))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it gave no answer"
        raise LocalError(f"The running unit cannot be asked ({why}); run this as the user tsuroku.") from error
    if "error" in answer:
        raise LocalRefused(str(answer["error"]))
    return answer
