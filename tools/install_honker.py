#!/usr/bin/env python3
"""Install honker into the environment of the Python that runs this, also where pip alone cannot.

    python tools/install_honker.py [--dry-run]

Honker's Linux wheels ask for glibc 2.38 (Ubuntu 24.04, Debian 13, Fedora 40). On such a system, and on macOS and Windows,
this is `pip install 'honker>=0.5,<0.6'` and nothing else. On an older glibc (Debian 12) pip refuses the wheel, although
Honker's own two libraries need only glibc 2.34: what needs 2.38 is the copy of libsqlite3 beside them. There this installs
the same wheel and puts a link to the system's libsqlite3 in the place of that one file.

Run again it does nothing. `pip uninstall honker` takes it away. Only the standard library is used.
"""

# Without it an older Python would end in a traceback instead of the message that names its version.
from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REQUIREMENT = "honker>=0.5,<0.6"
LOWEST_PYTHON = (3, 11)
WHEEL_GLIBC = (2, 38)
LOWEST_GLIBC = (2, 34)
LOWEST_SQLITE = (3, 38)  # unixepoch(), which Honker's tables use; JSON as Peewee writes it

# Opens a database with what is installed and prints Honker's version and that of the SQLite it uses.
CHECK = """
import honker, importlib.metadata, os, tempfile
version = importlib.metadata.version("honker")
assert version.startswith("0.5."), "honker " + version + " is installed, and 0.5 is needed"
with tempfile.TemporaryDirectory() as folder:
    database = honker.open(os.path.join(folder, "check.db"))
    print(version, database.query("SELECT sqlite_version() AS v")[0]["v"])
    database.close()
"""


class CannotInstallError(Exception):
    """There is no way here; the message says why and what to do."""


def plan(system: str, machine: str, implementation: str, python: tuple[int, ...], libc: tuple[str, str]) -> str:
    """What has to be done on a platform: `pip`, or `link` for the wheel with the system's SQLite.

    `libc` is as `platform.libc_ver()` gives it. Raises CannotInstallError where no wheel can serve.
    """
    if implementation != "CPython":
        raise CannotInstallError(f"honker has wheels for CPython only, and this is {implementation}.")
    if python < LOWEST_PYTHON:
        raise CannotInstallError("honker needs Python 3.11 or newer, and this is {}.{}.".format(*python))
    if system != "Linux":
        return "pip"
    if machine not in ("x86_64", "aarch64"):
        raise CannotInstallError(f"honker has no Linux wheel for {machine}: it has them for x86_64 and aarch64.")
    name, version = libc
    if name != "glibc":
        raise CannotInstallError(
            "honker's Linux wheels need glibc, which Alpine and other musl systems do not have. Use one based on Debian."
        )
    found = tuple(int(part) for part in version.split(".")[:2])
    if found >= WHEEL_GLIBC:
        return "pip"
    if found >= LOWEST_GLIBC:
        return "link"
    raise CannotInstallError(
        f"honker needs glibc 2.34 or newer, and this system has {version}. "
        "Debian 12, Ubuntu 24.04, Fedora 40 or newer will do."
    )


def plan_here() -> str:
    """The plan for the interpreter that runs this."""
    # A 32-bit Python on a 64-bit kernel is told the kernel's processor.
    machine = platform.machine() if sys.maxsize > 2**32 else f"a 32-bit Python on {platform.machine()}"
    return plan(platform.system(), machine, platform.python_implementation(), sys.version_info[:2], platform.libc_ver())


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    """Open a database with honker in a process of its own; `environment` adds to that of this one."""
    return subprocess.run(
        [sys.executable, "-c", CHECK], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def mapped_sqlite() -> Path | None:
    """The file of libsqlite3 that is loaded in this process, if one is."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libsqlite3.so"):
            # The plain name outlives an upgrade of the system, the one with all numbers does not.
            plain = path.with_name("libsqlite3.so.0")
            return plain if plain.exists() and plain.samefile(path) else path
    return None


def system_sqlite() -> Path:
    """The libsqlite3 that Python's sqlite3 module uses, so that both share one; where that has none, the system's.

    Raises CannotInstallError when there is none, or it is too old.
    """
    if importlib.util.find_spec("_sqlite3") is not None:
        importlib.import_module("_sqlite3")
    path = mapped_sqlite()
    if path is None:
        name = ctypes.util.find_library("sqlite3")
        if name is None:
            raise CannotInstallError(
                "no libsqlite3 is installed on this system. Debian and Ubuntu: apt-get install libsqlite3-0. "
                "Fedora and RHEL: dnf install sqlite-libs."
            )
        ctypes.CDLL(name)
        path = mapped_sqlite()
        if path is None:
            raise CannotInstallError(f"cannot find the file of {name}.")
    library = ctypes.CDLL(str(path))
    library.sqlite3_libversion.restype = ctypes.c_char_p
    version = library.sqlite3_libversion().decode()
    if tuple(int(part) for part in version.split(".")[:2]) < LOWEST_SQLITE:
        raise CannotInstallError(f"{path} is SQLite {version}, and Honker needs 3.38 or newer.")
    return path


def site_packages() -> Path:
    """Where packages go. Raises CannotInstallError where pip itself would refuse to put any."""
    site = Path(sysconfig.get_path("platlib"))
    managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists() and sys.prefix == sys.base_prefix
    if managed or not os.access(site, os.W_OK):
        raise CannotInstallError(
            f"{site} is not yours to install into. Make a virtual environment (python3 -m venv .venv) and run this with "
            "its Python (.venv/bin/python)."
        )
    return site


def install_with_system_sqlite(library: Path, site: Path) -> None:
    """Install the wheel with a link to `library` in the place of its own SQLite.

    It is made and tried in a folder of its own: if it does not work, `site` is left as it was.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # pip takes a wheel made for another platform only with --target, which writes the RECORD for uninstalling too.
        pip(
            "install", "--quiet", "--only-binary=:all:", "--no-deps",
            "--platform", f"manylinux_2_38_{platform.machine()}", "--target", name, REQUIREMENT,
        )  # fmt: skip
        copies = list(folder.glob("honker.libs/libsqlite3-*.so*"))
        if len(copies) != 1:
            raise CannotInstallError(f"its wheel is not as expected: {len(copies)} copies of libsqlite3 in honker.libs.")
        copies[0].unlink()
        copies[0].symlink_to(library)
        tried = check(PYTHONPATH=name)
        if tried.returncode != 0:
            raise CannotInstallError(f"it does not work with {library}:\n{tried.stderr}")
        pip("uninstall", "-qq", "--yes", "honker")
        for piece in sorted(folder.iterdir()):
            shutil.rmtree(site / piece.name, ignore_errors=True)
            shutil.move(piece, site / piece.name)


def install(dry_run: bool) -> None:
    """Bring honker here, or only say how. Raises CannotInstallError, and CalledProcessError when pip fails."""
    way = plan_here()
    if importlib.util.find_spec("pip") is None:
        raise CannotInstallError(f"{sys.executable} has no pip. To add it: {sys.executable} -m ensurepip")
    verb = "would install" if dry_run else "installing"
    if way == "pip":
        print(f"{verb} {REQUIREMENT} with pip", flush=True)  # before what pip says
        if not dry_run:
            pip("install", "--quiet", REQUIREMENT)
        return
    library, site = system_sqlite(), site_packages()
    print(
        f"{verb} {REQUIREMENT} into {site}\n"
        f"The SQLite in its wheel needs glibc 2.38, and this system has {platform.libc_ver()[1]}: "
        f"{library} takes its place.",
        flush=True,
    )
    if not dry_run:
        install_with_system_sqlite(library, site)


def main() -> int:
    parser = argparse.ArgumentParser(description="Install honker into this Python's environment.")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    dry_run = parser.parse_args().dry_run
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")

    found = check()
    if found.returncode == 0:
        print("honker {} with SQLite {} works here: nothing to do.".format(*found.stdout.split()))
        return 0
    try:
        install(dry_run)
    except CannotInstallError as problem:
        print(f"honker cannot be installed here: {problem}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as problem:
        print(f"honker could not be installed: pip ended with {problem.returncode}.", file=sys.stderr)
        return 1
    if dry_run:
        return 0
    found = check()
    if found.returncode != 0:
        print(f"honker is installed but does not work here:\n{found.stderr}", file=sys.stderr)
        return 1
    print("installed: honker {} with SQLite {}.".format(*found.stdout.split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
