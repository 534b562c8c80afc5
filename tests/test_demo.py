"""The demo as a newcomer runs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import outside

ROOT = Path(__file__).parent.parent


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start the demo in a session of its own, with its temporary files below the test's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(tempfile, "tempdir", None)
    started = []

    def begin(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "airports" / "demo.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children(process: subprocess.Popen) -> list[int]:
    """The processes that `process` has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def is_importing(process: subprocess.Popen, folder: Path) -> bool:
    assert process.poll() is None, process.communicate()
    return len(children(process)) == 2 and any(wal.stat().st_size > 200_000 for wal in folder.glob("airports-*/*-wal"))


def test_the_demo_says_that_all_agree(start, tmp_path):
    demo = start("--airports", "2500")
    output, _ = demo.communicate(timeout=outside.DEADLINE * 3)
    assert demo.returncode == 0, output
    assert "the importer and both receivers agree" in output
    assert "2,500 airports" in output
    assert re.search(r"[1-9]\d* rows were rolled back", output)
    assert list(tmp_path.glob("airports-*")) == []


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
def test_ctrl_c_leaves_no_process_and_no_file(start, tmp_path):
    demo = start()
    outside.until(lambda: is_importing(demo, tmp_path), "the import")
    receivers = children(demo)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=outside.DEADLINE)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert list(tmp_path.glob("airports-*")) == []
    assert not any(Path(f"/proc/{receiver}").exists() for receiver in receivers)


@needs_proc
def test_a_receiver_that_dies_makes_the_demo_fail(start, tmp_path):
    demo = start("--airports", "6000")
    outside.until(lambda: is_importing(demo, tmp_path), "the import")
    os.kill(children(demo)[0], signal.SIGKILL)
    output, _ = demo.communicate(timeout=outside.DEADLINE * 3)
    assert demo.returncode == 1, output
    assert "is gone, with exit code -9" in output
