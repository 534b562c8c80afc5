"""The proofs of concept: each has the answer that its page says, and fails when what it proves is not so.

For the second, a copy of the script is broken on purpose, one condition at a time.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import outside

ROOT = Path(__file__).parent.parent
POC = ROOT / "poc"
SCRIPTS = sorted(POC.glob("*.py"))
# Less of each than a script does by itself; all of it with -m slow.
SHORT = {
    "02": ["--iterations", "500"],
    "03": ["--events", "50"],
    "04": ["--kills", "2"],
    "05": ["--kills", "2", "--events", "600"],
    "08": ["--events", "200"],
    "09": ["--commits", "100"],
}

EARLY, AGAIN = (f'transaction.execute("{sql}")' for sql in ("COMMIT", "BEGIN IMMEDIATE"))

BREAKS = [
    # proof, what stands there, what is put in its place, what it then says
    ("01", "SELECT last_insert_rowid()", "SELECT 7", "no last row's id"),
    ("01", "SELECT * FROM ({sql})", "{sql}", "columns of equal names are lost"),
    ("01", "LEFT JOIN ({sql})", "JOIN ({sql})", "an empty result has no names of columns"),
    ("01", "TextField(unique=True)", "TextField()", "a broken constraint cannot be told"),
    ("02", "LIMIT = 0.010", "LIMIT = 0.000_000_1", "the median is"),
    ("02", "heard.append(notification.payload)", "heard.append(0)", "a notification was lost, came twice or out of order"),
    ("03", "await asyncio.sleep(self.slow)", "time.sleep(self.slow)", "the event loop stood still"),
    ("03", 'transaction.notify("b", number)', 'transaction.notify("b", 0)', "listener b lost an event"),
    ("04", 'transaction.execute("ROLLBACK")', 'transaction.execute("COMMIT")', "the rows are not those that were committed"),
    ("04", 'transaction.execute("ROLLBACK TO s")', "pass", "the rows are not those that were committed"),
    ("04", "time.sleep(0.2)", f"{EARLY}; time.sleep(0.5); {AGAIN}", "something was heard before the commit"),
    ("04", 'transaction.notify("orders", f"w{number}")', "pass", "did not hear exactly the committed rows"),
    ("05", '"events", event.offset]', '"events", event.offset + 3]', "are lost when the place is saved with the work"),
    ("05", 'if way == "work":\n            transaction', "if False:\n            transaction", "took effect twice"),
    ("07", "with self.migrator.migration_context():", "if True:", "lost rows or broke a foreign key"),
    ("07", "in (ours, theirs)]", 'in (ours,)] + [""]', "ends otherwise than with SqliteDatabase"),
    ("07", "raise LookupError", "pass", "a migration that raised left something behind"),
    ("08", "< 3 * max(", "< 0 * max(", "becomes dearer with the channels"),
    ("09", "MODIFIED, NONBLOCK, CLOEXEC = 0x2,", "MODIFIED, NONBLOCK, CLOEXEC = 0x400,", "came without an event"),
]


def run(script: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_proof_of_concept_has_its_answer_after_all_its_iterations(script):
    done = run(script, [])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_proof_of_concept_has_the_answer_that_its_page_says(script):
    done = run(script, SHORT.get(script.name[:2], []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"]({script.name})" in (POC / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "stands", "instead", "says"), BREAKS, ids=lambda value: value[:24])
def test_a_proof_of_concept_fails_when_its_condition_is_broken(number, stands, instead, says, tmp_path):
    [script] = POC.glob(f"{number}_*.py")
    shutil.copytree(POC / "shared", tmp_path / "shared")
    code = script.read_text()
    assert stands in code
    copy = tmp_path / script.name
    copy.write_text(code.replace(stands, instead))
    done = run(copy, SHORT.get(number, []))
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("number", ["02", "03", "04", "05"])
def test_ctrl_c_ends_a_proof_of_concept_without_a_traceback(number):
    [script] = POC.glob(f"{number}_*.py")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline().endswith("?\n")  # it has begun with its question
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=outside.DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "interrupted\n")
