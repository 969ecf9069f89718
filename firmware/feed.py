"""What happens, as it happens, for programs of this machine: lines of JSON on a local socket.

{"topic": ..., "payload": ...} for a state that is shown, {"event": ..., "subject": ..., "data": ...} for an event of a
call. Nothing here can hold the recorder up: whoever is slow is cut off, and reads the store when he comes again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware.local_api import address_below

log = logging.getLogger(__name__)

NAME = "feed.sock"  # below the data folder
_MOST = 8
_QUEUE_BYTES = 1 << 18


class Feed:
    """Thread: send() on the loop's; one of its own accepts. New readers get the last state of each topic first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: socket.socket | None = None
        self._readers: list[socket.socket] = []
        self._last: dict[str, bytes] = {}
        self._lock = threading.Lock()  # between those two, for as long as a few sends take that never wait

    def start(self) -> None:
        """Listen. A socket that cannot be made is logged, and stops nothing."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            (self._directory / NAME).unlink(missing_ok=True)
            with address_below(self._directory, NAME) as address:
                server.bind(address)
            (self._directory / NAME).chmod(0o600)
            server.listen(_MOST)
        except OSError as error:
            server.close()
            log.warning("event=feed_failed reason=%s", error.strerror)
            return
        self._server = server
        threading.Thread(target=self._accept, args=(server,), name="feed", daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                reader, _ = server.accept()
            except OSError:
                return  # closed
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
            with self._lock:
                if len(self._readers) >= _MOST:
                    reader.close()
                    continue
                self._readers.append(reader)
                self._put(reader, b"".join(self._last.values()))

    def show(self, topic: str, payload: Mapping[str, Any]) -> None:
        if self._server is None:
            return
        line = json.dumps({"topic": topic, "payload": payload}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._last[topic] = line
            for reader in list(self._readers):
                self._put(reader, line)

    def tell(self, type_: str, subject: str, data: Mapping[str, Any]) -> None:
        if self._server is None:
            return
        line = json.dumps({"event": type_, "subject": subject, "data": data}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            for reader in list(self._readers):
                self._put(reader, line)

    def _put(self, reader: socket.socket, line: bytes) -> None:
        try:
            if line and reader.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line):
                return
            if not line:
                return
        except OSError:
            pass  # full, or gone
        self._readers.remove(reader)
        reader.close()

    def close(self) -> None:
        if self._server:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
            (self._directory / NAME).unlink(missing_ok=True)
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
