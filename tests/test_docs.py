"""Every Python block of the README and of docs/ runs."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import outside

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


NEEDS_POSTGRES = ROOT / "docs" / "postgres.md"  # psycopg: of the tests on servers
PAGES = [
    pytest.param(page, marks=pytest.mark.services if page == NEEDS_POSTGRES else (), id=page.name)
    for page in sorted(ROOT.glob("docs/**/*.md"))
]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_one_after_another(page, tmp_path):
    code = "\n".join(blocks(page))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdin=subprocess.DEVNULL,  # what serves over standard input ends at once
        capture_output=True,
        text=True,
        timeout=outside.DEADLINE,
    )
    assert done.returncode == 0, done.stderr


def test_the_first_example_of_the_readme_is_heard_in_the_other_process(tmp_path, monkeypatch):
    files = {}
    for block in blocks(ROOT / "README.md"):
        name = re.match(r"# (\w+\.py)", block)
        assert name, "a block of the README begins with the name of its file"
        files[name[1]] = block
        (tmp_path / name[1]).write_text(block)
    assert set(files) == {"shop.py", "ship.py", "sell.py"}
    assert len(files["shop.py"].splitlines()) < 20

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    with outside.Script((tmp_path / "ship.py").read_text()) as ship:
        # Its bus runs when another process's sale is heard; until then sell again.
        heard: list[str] = []

        def sell() -> bool:
            subprocess.run([sys.executable, "sell.py"], check=True, timeout=outside.DEADLINE)
            return outside.rows("shop.db", "SELECT COUNT(*) FROM _honker_notifications")[0][0] >= 3

        outside.until(sell)
        heard.append(ship.line())
        ship.process.send_signal(signal.SIGINT)
        ship.finish()
    assert heard == ["ship to Ada"]
