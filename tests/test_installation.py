"""The script that installs honker decides by the platform, and does nothing twice."""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support import outside

SCRIPT = Path(__file__).parent.parent / "tools" / "install_honker.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("install_honker", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare_python(tmp_path):
    """The Python of a new environment, without pip and honker."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    return tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.mark.parametrize(
    ("system", "machine", "libc", "way"),
    [
        ("Linux", "x86_64", ("glibc", "2.38"), "pip"),  # Fedora 39
        ("Linux", "x86_64", ("glibc", "2.41"), "pip"),  # Debian 13
        ("Linux", "aarch64", ("glibc", "2.36"), "link"),  # Debian 12
        ("Linux", "x86_64", ("glibc", "2.35"), "link"),  # Ubuntu 22.04
        ("Linux", "x86_64", ("glibc", "2.34"), "link"),
        ("Darwin", "arm64", ("", ""), "pip"),
        ("Windows", "AMD64", ("", ""), "pip"),
    ],
)
def test_the_way_for_a_platform(script, system, machine, libc, way):
    assert script.plan(system, machine, "CPython", (3, 11), libc) == way


@pytest.mark.parametrize(
    ("machine", "implementation", "python", "libc", "why"),
    [
        ("x86_64", "CPython", (3, 12), ("", ""), "Alpine"),
        ("x86_64", "CPython", (3, 12), ("musl", "1.2.4"), "Alpine"),
        ("x86_64", "CPython", (3, 12), ("glibc", "2.31"), "2.34 or newer, and this system has 2.31"),
        ("armv7l", "CPython", (3, 12), ("glibc", "2.41"), "no Linux wheel for armv7l"),
        ("x86_64", "PyPy", (3, 11), ("glibc", "2.41"), "CPython only, and this is PyPy"),
        ("x86_64", "CPython", (3, 10), ("glibc", "2.41"), "3.11 or newer, and this is 3.10"),
    ],
)
def test_where_nothing_can_be_done_it_says_why(script, machine, implementation, python, libc, why):
    with pytest.raises(script.CannotInstallError, match=why):
        script.plan("Linux", machine, implementation, python, libc)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_where_honker_works_it_does_nothing(options):
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=outside.DEADLINE)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert done.stderr == ""


def test_without_pip_it_says_how_to_have_it_and_fails(bare_python):
    done = subprocess.run([bare_python, SCRIPT], capture_output=True, text=True, timeout=outside.DEADLINE)
    assert done.returncode == 1
    assert "has no pip" in done.stderr
    assert "-m ensurepip" in done.stderr


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(bare_python, tmp_path):
    pip = importlib.util.find_spec("pip")
    assert pip is not None
    assert pip.origin is not None
    (tmp_path / "lent").mkdir()
    (tmp_path / "lent" / "pip").symlink_to(Path(pip.origin).parent)
    before = sorted(bare_python.parent.parent.rglob("*"))

    done = subprocess.run(
        [bare_python, SCRIPT, "--dry-run"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lent")},
        capture_output=True,
        text=True,
        timeout=outside.DEADLINE,
    )

    assert done.returncode == 0, done.stderr
    assert "would install honker" in done.stdout
    assert sorted(bare_python.parent.parent.rglob("*")) == before
