"""What SQLite itself says to statements of another program."""

import json
import subprocess
import sys

from tests.support.outside import DEADLINE

CODE = """
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
database.execute("PRAGMA foreign_keys = ON")
answers = []
for statement in json.load(sys.stdin):
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute(statement)
        answers.append("")
    except sqlite3.Error as error:
        answers.append(str(error))
    database.execute("ROLLBACK")
print(json.dumps(answers))
"""


def attempts(path: str, *statements: str) -> list[str]:
    """Try and undo each statement with Python's sqlite3 in a process of its own. Gives the errors, '' where it worked."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, path],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    found: list[str] = json.loads(done.stdout)
    return found
