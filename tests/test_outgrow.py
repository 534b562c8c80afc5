"""examples/outgrow: a running app moves from a file to PostgreSQL and back, and its consumer goes on where it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import outside

pytestmark = pytest.mark.services
HERE = Path(__file__).parent.parent / "examples" / "outgrow"


def run(script, *arguments, where=None, cwd=None, fails=False):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), **({"SHOP_DATABASE": where} if where else {})}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / script), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout.splitlines()


def test_an_app_moves_to_postgresql_and_back_with_its_consumers_place(tmp_path, postgres_url, postgres_server):
    file, other_file = str(tmp_path / "shop.db"), str(tmp_path / "new.db")

    def shop(script, *arguments, where, **options):
        return run(script, *arguments, where=where, cwd=tmp_path, **options)

    shop("sell.py", "20", where=file)
    shipped = shop("ship.py", "8", where=file)
    moved = shop("move.py", file, postgres_url, where=file)
    assert moved == ["customer: 7", "order: 20", "shipment: 8", "stream: 20", "places: 1", "pruned: 0", "letters: 0"]

    refused = shop("sell.py", "1", where=file, fails=True)
    assert "this shop has moved to another database" in refused

    shop("sell.py", "5", where=postgres_url)
    shipped += shop("ship.py", "10", where=postgres_url)
    moved = shop("move.py", postgres_url, other_file, where=file)
    assert moved == ["customer: 7", "order: 25", "shipment: 18", "stream: 25", "places: 1", "pruned: 0", "letters: 0"]
    assert "has moved" in shop("sell.py", "1", where=postgres_url, fails=True)

    shop("sell.py", "2", where=other_file)
    shipped += shop("ship.py", "9", where=other_file)
    assert shipped == [f"shipped {number}" for number in range(1, 28)]
    assert outside.rows(other_file, 'SELECT "offset" FROM _honker_stream ORDER BY 1') == [
        [number] for number in range(1, 28)
    ]


def test_a_seller_that_runs_during_the_move_loses_no_order(tmp_path, postgres_url):
    file = str(tmp_path / "shop.db")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "SHOP_DATABASE": file}
    run("sell.py", "3", where=file, cwd=tmp_path)
    with subprocess.Popen(
        [sys.executable, str(HERE / "sell.py"), "100000"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as seller:
        try:
            for _ in range(50):
                assert seller.stdout.readline()
            moved = run("move.py", file, postgres_url, where=file, cwd=tmp_path)
            output = seller.stdout.read()  # communicate() would leave out what readline() has read ahead
            error = seller.stderr.read()
        finally:
            seller.kill()
    assert "has moved" in error
    sold = 3 + 50 + len(output.splitlines())
    assert f"order: {sold}" in moved
    assert f"stream: {sold}" in moved
