"""A TCP proxy in front of a server that cuts connections: now, or in the middle of what is being sent."""

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Passes bytes between clients and a server, in a thread of its own; a context manager that ends all connections.

    Arguments:
        port: of the server, on the loopback; `proxy.port` is the one to connect to instead.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._changing = threading.RLock()
        self._pairs: dict[socket.socket, socket.socket] = {}  # both ways
        self._clients: set[socket.socket] = set()
        self._refusing = False
        self._left: dict[str, int | None] = {"requests": None, "answers": None}
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ending = False
        self.cuts = 0
        """How many connections were cut."""
        self._thread = threading.Thread(target=self._run, name="cutting proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End every connection now."""
        with self._changing:
            for client in list(self._clients):
                self._end(client)

    def cut_after(self, size: int, what: str = "requests") -> None:
        """Let so many bytes of the clients' `requests`, or of the server's `answers`, through, then end that connection.
        Once; the next connection is whole again."""
        with self._changing:
            self._left[what] = size

    def refuse(self) -> None:
        """End every connection, and let none in until `accept`."""
        with self._changing:
            self._refusing = True
            self.cut()

    def accept(self) -> None:
        """Let connections in again."""
        with self._changing:
            self._refusing = False

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._ending = True
        self._wake.send(b".")
        self._thread.join()
        self.cut()
        for each in (self._listener, self._wake, self._woken):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._listener:
                    self._let_in()
                elif found is not self._woken:
                    self._pass_on(found)

    def _let_in(self) -> None:
        client, _ = self._listener.accept()
        with self._changing:
            if self._refusing:
                client.close()
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:  # it is down: so the client hears
                client.close()
                return
            self._pairs.update({client: server, server: client})
            self._clients.add(client)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                each.settimeout(5.0)  # for one that does not read
                self._selector.register(each, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        with self._changing:
            other = self._pairs.get(source)
            if other is None:
                return
            what = "requests" if source in self._clients else "answers"
            client = source if source in self._clients else other
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            left = self._left[what]
            is_cut = left is not None and len(data) >= left
            try:
                other.sendall(data[:left] if is_cut else data)
            except OSError:
                data = b""
            if is_cut:
                self._left[what] = None
            elif left is not None:
                self._left[what] = left - len(data)
            if not data or is_cut:
                self._end(client, gently=not is_cut)

    def _end(self, client: socket.socket, *, gently: bool = False) -> None:
        server = self._pairs.pop(client)
        del self._pairs[server]
        self._clients.discard(client)
        if not gently:
            self.cuts += 1
        for each in (client, server):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(each)
            if each is client and not gently:  # as a reset: what was not read yet is gone, as on a network
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
