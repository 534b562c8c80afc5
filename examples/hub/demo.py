"""Two tenants at one hub: acme with two branches, globex with one. A branch sells while it is away from the hub.

python demo.py
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peewee_honker.hub import WebSocketClientTarget
from peewee_honker.operations import OperationError
from peewee_honker.operations.calls import CallClient
from peewee_honker.storage import Account, ApiKeys, Organization, OrgMember, create_system_database, system_database

HERE = Path(__file__).parent
SCOPES = ["events:read", "events:write", "operations:serve", "sales:read"]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition gives something."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"this took too long: {what}")
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def process(script: str, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of the processes, ended with the block."""
    running = subprocess.Popen(
        [sys.executable, HERE / script, *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
        running.wait()


def make_keys(path: str) -> dict[str, str]:
    """A key for an account in each of two organizations."""
    system = create_system_database(path)
    keys = {}
    with system_database.use(system):
        for name in ("acme", "globex"):
            account = Account.create(email=f"{name}@example.org", name=name)
            OrgMember.create(org=Organization.create(name=name, slug=name, owner=account), account=account)
            keys[name] = ApiKeys(system).create(account, "branches", scopes=SCOPES, actor=account).text
    system.close_engine()
    return keys


def answer(calls: CallClient, operation_id: str) -> Any:
    """What an operation gives, or None while nobody is there to execute it."""
    with contextlib.suppress(OperationError):
        return calls.call(operation_id, {"limit": 100}, timeout=5)
    return None


def show(name: str, key: str, url: str, branches: list[str], foreign: str) -> None:
    """What somebody with a key of a company finds, calls and hears."""
    with WebSocketClientTarget(url, key=key) as target:
        target.wait_connected(30)
        until(lambda: [one["spoke"] for one in target.discover()] == branches, f"the branches of {name}")
        print(f"{name} finds {', '.join(branches)}")
        calls = CallClient(target.calls)
        sold = until(lambda: answer(calls, f"{branches[0]}/sales/list"), f"the sales of {branches[0]}")["items"]
        print(f"{branches[0]} has sold {len(sold)}")
        try:
            calls.call(f"{foreign}/sales/list", {}, timeout=5)
        except OperationError as error:
            print(f"{name} calls {foreign}: {error.code}")
    heard: list[Any] = []
    late = WebSocketClientTarget(url, key=key, after=0)  # from the beginning of the hub's stream
    late.add_listener("sale.*", heard.append)
    with late:
        until(lambda: len(heard) >= len(sold), f"the events of {name}")
    origins = sorted({event.headers["hub-spoke"] for event in heard})
    print(f"{name} hears {len(heard)} sales, of {', '.join(origins)}")


def main(folder: str) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    keys = make_keys(f"{folder}/system.db")
    acme, globex = ({"HUB_URL": url, "HUB_KEY": keys[name]} for name in ("acme", "globex"))
    with contextlib.ExitStack() as stack:
        # Away: there is no hub yet, and the branch sells all the same.
        stack.enter_context(process("branch.py", "harbour", f"{folder}/harbour.db", SELL="20", **acme))
        stack.enter_context(process("hub.py", HUB_FOLDER=folder, HUB_PORT=str(port)))
        stack.enter_context(process("branch.py", "station", f"{folder}/station.db", **acme))
        stack.enter_context(process("branch.py", "abroad", f"{folder}/abroad.db", SELL="3", **globex))
        until(lambda: is_open(port), "the hub")
        show("acme", keys["acme"], url, ["harbour", "station"], "abroad")
        show("globex", keys["globex"], url, ["abroad"], "harbour")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(made)
