#!/usr/bin/env python3
"""Install honker into the environment of the Python that runs this, also where pip alone cannot.

    python tools/install_honker.py

Honker's Linux wheels ask for glibc 2.38 (Ubuntu 24.04, Debian 13, Fedora 40). On such a system, and on macOS and Windows,
this is `pip install 'honker>=0.5,<0.6'` and nothing else. On an older glibc (Debian 12, Ubuntu 22.04) pip refuses the
wheel, although Honker's own two libraries need only glibc 2.34: what needs 2.38 is the copy of libsqlite3 beside them.
There this installs the same wheel and puts a link to the system's libsqlite3 in the place of that one file.

Run again it does nothing. `pip uninstall honker` removes all of it but the link's folder. Only the standard library is used.
"""

import ctypes.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REQUIREMENT = "honker>=0.5,<0.6"
WHEEL_GLIBC = (2, 38)
LOWEST_GLIBC = (2, 34)
LOWEST_SQLITE = (3, 38)  # unixepoch(), which Honker's tables use; JSON as Peewee writes it

# Opens a database with what is installed and prints Honker's version and that of the SQLite it uses.
CHECK = """
import honker, importlib.metadata, os, tempfile
version = importlib.metadata.version("honker")
assert version.startswith("0.5."), version
with tempfile.TemporaryDirectory() as folder:
    database = honker.open(os.path.join(folder, "check.db"))
    print(version, database.query("SELECT sqlite_version() AS v")[0]["v"])
    database.close()
"""


class CannotInstallError(Exception):
    """There is no way here; the message says why and what to do."""


def plan(system: str, machine: str, implementation: str, libc: tuple[str, str]) -> str:
    """What has to be done on a platform: `pip`, or `link` for the wheel with the system's SQLite.

    `libc` is as `platform.libc_ver()` gives it. Raises CannotInstallError where no wheel can serve.
    """
    if implementation != "CPython":
        raise CannotInstallError(f"honker has wheels for CPython only, and this is {implementation}.")
    if system != "Linux":
        return "pip"
    if machine not in ("x86_64", "aarch64"):
        raise CannotInstallError(f"honker has no Linux wheel for {machine}: it has them for x86_64 and aarch64.")
    name, version = libc
    if name != "glibc":
        raise CannotInstallError("honker's Linux wheels need glibc: on Alpine and other musl systems there is none.")
    found = tuple(int(part) for part in version.split(".")[:2])
    if found >= WHEEL_GLIBC:
        return "pip"
    if found >= LOWEST_GLIBC:
        return "link"
    raise CannotInstallError(
        f"honker needs glibc 2.34 or newer, and this system has {version}. "
        "Debian 12, Ubuntu 22.04, Fedora 35, RHEL 9 or newer will do."
    )


def working() -> str | None:
    """The versions of honker and its SQLite when they work here, else None."""
    check = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    return check.stdout.strip() if check.returncode == 0 else None


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def system_sqlite() -> Path:
    """The system's libsqlite3. Raises CannotInstallError when there is none, or it is too old."""
    name = ctypes.util.find_library("sqlite3")
    if name is None:
        raise CannotInstallError(
            "no libsqlite3 is installed on this system. Debian and Ubuntu: apt-get install libsqlite3-0. "
            "Fedora and RHEL: dnf install sqlite-libs."
        )
    library = ctypes.CDLL(name)
    library.sqlite3_libversion.restype = ctypes.c_char_p
    version = library.sqlite3_libversion().decode()
    if tuple(int(part) for part in version.split(".")[:2]) < LOWEST_SQLITE:
        raise CannotInstallError(f"the system's SQLite is {version}, and Honker needs 3.38 or newer.")
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if re.search(r"/libsqlite3\.so", path):
            return Path(path)
    raise CannotInstallError(f"cannot find the file of {name}: is /proc mounted?")


def install_with_system_sqlite(machine: str) -> None:
    """Install the wheel as it is and link its SQLite to the system's."""
    library = system_sqlite()
    site = Path(sysconfig.get_path("platlib"))
    with tempfile.TemporaryDirectory() as folder:
        # pip takes a wheel for another platform only into a folder of its own, so: unpack there, move here.
        pip(
            "install", "--quiet", "--only-binary=:all:", "--no-deps", "--upgrade",
            "--platform", f"manylinux_2_38_{machine}", "--target", folder, REQUIREMENT,
        )  # fmt: skip
        for piece in sorted(Path(folder).iterdir()):
            shutil.rmtree(site / piece.name, ignore_errors=True)
            shutil.move(piece, site / piece.name)
    copies = list((site / "honker.libs").glob("libsqlite3-*.so*"))
    if len(copies) != 1:
        raise CannotInstallError(f"honker's wheel is not as expected: {len(copies)} copies of libsqlite3 in honker.libs.")
    copies[0].unlink()
    copies[0].symlink_to(library)
    print(f"honker's private libsqlite3 needs a newer glibc than this system's: linked to {library} instead.")


def main() -> int:
    versions = working()
    if versions is None:
        try:
            way = plan(platform.system(), platform.machine(), platform.python_implementation(), platform.libc_ver())
            if way == "pip":
                pip("install", "--quiet", REQUIREMENT)
            else:
                install_with_system_sqlite(platform.machine())
        except CannotInstallError as problem:
            print(f"honker cannot be installed here: {problem}", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as problem:
            print(f"honker could not be installed: pip ended with {problem.returncode}.", file=sys.stderr)
            return 1
        versions = working()
        if versions is None:
            print("honker is installed but does not work here:", file=sys.stderr)
            subprocess.run([sys.executable, "-c", CHECK], check=False)
            return 1
        print("installed honker {} with SQLite {}.".format(*versions.split()))
    else:
        print("honker {} with SQLite {} works here: nothing to do.".format(*versions.split()))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    sys.exit(main())
