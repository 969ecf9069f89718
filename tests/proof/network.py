"""A network between a unit and its broker that can be cut: a TCP relay on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading


class Network:
    """Relays port to the broker's. cut(): every connection breaks and none is taken; stall(): nothing gets through,
    and nobody is told, as where a cable is pulled behind a switch.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._up = threading.Event()
        self._flows = threading.Event()
        self._up.set()
        self._flows.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, name="network", daemon=True).start()

    def cut(self) -> None:
        self._up.clear()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        self._flows.clear()

    def mend(self) -> None:
        self._flows.set()
        self._up.set()

    def close(self) -> None:
        self.mend()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                near.close()
                continue
            if not self._up.is_set():
                near.close()
                far.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        except OSError:
            pass  # cut
        with self._lock:
            self._sockets -= {source, sink}
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
