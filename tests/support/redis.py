"""A Redis server of the test session's own, on a free port of the loopback and in a directory of its own; ended with the
session."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support import outside

if TYPE_CHECKING:
    import redis

__all__ = ["Server", "redis_server", "redis_url"]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """A server that can be stopped, killed and started; it writes every command to the disk before it answers."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise OSError("no redis-server is installed")
        self._program = program
        self.directory = tempfile.mkdtemp(prefix="pwh-redis-")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "logfile": f"{self.directory}/log",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._program, *arguments], cwd=self.directory)
        outside.until(lambda: self._process.poll() is not None or self.answers(), "Redis")
        if self._process.poll() is not None:
            with open(f"{self.directory}/log") as log:
                raise OSError(f"Redis does not start: {log.read()[-2000:]}")

    def client(self) -> "redis.Redis":
        """A client of redis-py, to look into the server."""
        import redis

        return redis.Redis.from_url(self.url, decode_responses=True)

    def answers(self) -> bool:
        """Whether it takes commands."""
        import redis

        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it: SIGTERM in good order, SIGKILL as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        """End it and delete all it had."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """The session's server."""
    pytest.importorskip("redis", reason="redis-py is not installed: the extra `redis`")
    try:
        server = Server()
    except OSError as error:
        pytest.skip(f"no Redis server can be had: {error}")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server: Server) -> Iterator[str]:
    """The URL of the server, which is empty then."""
    with redis_server.client() as client:
        client.flushall()
    yield redis_server.url
    if not redis_server.answers():
        redis_server.end(signal.SIGKILL)
        redis_server.start()
