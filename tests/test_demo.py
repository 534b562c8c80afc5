"""The demo as a newcomer runs it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import outside

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "airports" / "demo.py"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start the demo in a session of its own, with its temporary files below the test's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # rich would take the pipe for a terminal
        monkeypatch.delenv(name, raising=False)
    started = []

    def begin(*arguments: str, script: Path = DEMO) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
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
    assert "The table, the importer and both receivers agree on" in output
    assert output.count("heard of 2,500 airports") == 2
    assert "2,500 airports in" in output
    assert re.search(r"^[1-9]\d* rows were rolled back, and nobody heard of them$", output, re.MULTILINE)
    assert output.count("p50") == output.count("p99") == 2
    assert list(tmp_path.iterdir()) == []


def test_it_writes_plain_lines_where_there_is_no_terminal(start):
    output, _ = start("--airports", "300").communicate(timeout=outside.DEADLINE * 3)
    assert output.isascii()
    assert "\x1b" not in output


def test_it_says_what_differs(start, tmp_path):
    """A receiver that loses an airport and one that hears of a rolled-back one are found out."""
    copy = tmp_path / "demo"
    shutil.copytree(DEMO.parent, copy)
    receiver = copy / "receiver.py"
    code = receiver.read_text()
    told = "    with one_more:\n        heard_at"
    assert told in code
    lie = "    if len(heard_at) == 7:\n        event = dataclasses.replace(event, id='undone 0')\n"
    receiver.write_text(code.replace(told, lie + told).replace("import json", "import dataclasses\nimport json"))
    demo = start("--airports", "300", script=copy / "demo.py")
    output, _ = demo.communicate(timeout=outside.DEADLINE * 3)
    assert demo.returncode == 1, output
    assert "north heard of 1 rows that were rolled back (undone 0)" in output
    assert "agree" not in output


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize("to_group", [False, True], ids=["to the demo", "to its process group"])
def test_ctrl_c_leaves_no_process_and_no_file(start, tmp_path, to_group):
    demo = start()
    outside.until(lambda: is_importing(demo, tmp_path), "the import")
    receivers = children(demo)
    if to_group:
        os.killpg(demo.pid, signal.SIGINT)
    else:
        demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=outside.DEADLINE)
    assert demo.returncode == 130, output
    assert output == ""
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{receiver}").exists() for receiver in receivers)


@needs_proc
def test_ctrl_c_while_the_receivers_start(start, tmp_path):
    demo = start()
    outside.until(lambda: children(demo) or demo.poll() is not None, "the first receiver")
    receivers = children(demo)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=outside.DEADLINE)
    assert demo.returncode == 130, output
    assert output == ""
    assert list(tmp_path.iterdir()) == []
    outside.until(lambda: not any(Path(f"/proc/{receiver}").exists() for receiver in receivers), "the receivers' end")


@needs_proc
def test_a_receiver_that_dies_makes_the_demo_fail(start, tmp_path):
    demo = start()
    outside.until(lambda: is_importing(demo, tmp_path), "the import")
    victim, survivor = children(demo)
    os.kill(victim, signal.SIGKILL)
    output, _ = demo.communicate(timeout=outside.DEADLINE * 3)
    assert demo.returncode == 1, output
    assert re.fullmatch(r"The demo failed: receiver (north|south) is gone, with exit code -9\n", output)
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{survivor}").exists()


@needs_proc
@pytest.mark.slow
def test_a_receiver_that_hangs_makes_the_demo_fail(start, tmp_path):
    demo = start()
    outside.until(lambda: is_importing(demo, tmp_path), "the import")
    os.kill(children(demo)[0], signal.SIGSTOP)
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 1, output
    assert "did not answer within" in output
    assert list(tmp_path.iterdir()) == []
