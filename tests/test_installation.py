"""The script that installs honker decides by the platform, and does nothing twice."""

import importlib.util
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("system", "machine", "implementation", "libc", "way"),
    [
        ("Linux", "x86_64", "CPython", ("glibc", "2.38"), "pip"),  # Fedora 39
        ("Linux", "x86_64", "CPython", ("glibc", "2.41"), "pip"),  # Debian 13
        ("Linux", "aarch64", "CPython", ("glibc", "2.36"), "link"),  # Debian 12
        ("Linux", "x86_64", "CPython", ("glibc", "2.35"), "link"),  # Ubuntu 22.04
        ("Darwin", "arm64", "CPython", ("", ""), "pip"),
        ("Windows", "AMD64", "CPython", ("", ""), "pip"),
    ],
)
def test_the_way_for_a_platform(script, system, machine, implementation, libc, way):
    assert script.plan(system, machine, implementation, libc) == way


@pytest.mark.parametrize(
    ("system", "machine", "implementation", "libc", "why"),
    [
        ("Linux", "x86_64", "CPython", ("", ""), "Alpine"),
        ("Linux", "x86_64", "CPython", ("glibc", "2.31"), "2.34 or newer"),
        ("Linux", "armv7l", "CPython", ("glibc", "2.41"), "no Linux wheel for armv7l"),
        ("Linux", "x86_64", "PyPy", ("glibc", "2.41"), "CPython only"),
    ],
)
def test_where_nothing_can_be_done_it_says_why(script, system, machine, implementation, libc, why):
    with pytest.raises(script.CannotInstallError, match=why):
        script.plan(system, machine, implementation, libc)


def test_where_honker_works_it_does_nothing():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=outside.DEADLINE)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
