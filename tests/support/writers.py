"""Ways to write into a database's file: this process, another one with Python's sqlite3, and the sqlite3 shell."""

import json
import re
import subprocess
from collections.abc import Sequence

import peewee

from peewee_honker import HonkerDatabase
from tests.support import outside

__all__ = ["Elsewhere", "Here", "Shell"]

# What a random statement may be refused for; anything else is a fault of the triggers.
_EXPECTED = re.compile(
    r"constraint failed|cannot (commit|rollback|start)|no such savepoint|datatype mismatch|no transaction"
)

_SQLITE3 = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
for line in sys.stdin:
    refused = []
    for sql in json.loads(line):
        try:
            db.execute(sql)
        except sqlite3.Error as error:
            refused.append(str(error))
    print(json.dumps(refused))
"""


def _check(refused: Sequence[str]) -> None:
    for error in refused:
        assert _EXPECTED.search(error), error


class Here:
    """Through a HonkerDatabase."""

    def __init__(self, db: HonkerDatabase) -> None:
        self.db = db

    def run(self, statements: Sequence[str]) -> None:
        """Run statements; those that a constraint refuses are passed over."""
        refused = []
        for sql in statements:
            try:
                self.db.execute_sql(sql)
            except peewee.PeeweeException as error:
                refused.append(str(error))
        _check(refused)

    def close(self) -> None:
        """Nothing: the database is its owner's."""


class Elsewhere:
    """By Python's sqlite3 in a process of its own."""

    def __init__(self, path: str) -> None:
        self.script = outside.Script(_SQLITE3, path)

    def run(self, statements: Sequence[str]) -> None:
        """Run statements; those that a constraint refuses are passed over."""
        self.script.say(json.dumps(statements))
        _check(json.loads(self.script.line()))

    def close(self) -> None:
        """End the process."""
        self.script.__exit__()


class Shell:
    """By the sqlite3 shell, whose foreign keys and recursive triggers are off."""

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen(
            ["sqlite3", "-batch", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.run(["PRAGMA busy_timeout = 20000"])

    def run(self, statements: Sequence[str]) -> None:
        """Run statements; those that a constraint refuses are passed over."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("".join(f"{sql};\n" for sql in statements) + ".print .done.\n")
        self.process.stdin.flush()
        refused = []
        while (line := self.process.stdout.readline()) != ".done.\n":
            assert line, "the shell has ended"
            if re.match(r"(Runtime |Parse )?[Ee]rror", line):
                refused.append(line)
        _check(refused)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
