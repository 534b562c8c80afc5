"""How soon a bus hears of commits: with what Linux has for it, and with what other systems have."""

import pytest

from peewee_honker import Event
from peewee_honker.events import HonkerEventTarget
from tests.support import outside

SYSTEMS = {
    "linux": "",
    "no inotify": "from peewee_honker.events import wake\nwake._open_inotify = lambda: None",
    "no inotify and no epoll": (
        "import select\ndel select.epoll\nfrom peewee_honker.events import wake\nwake._open_inotify = lambda: None"
    ),
}
RECEIVER = """
import sys
exec(sys.argv[2])
from peewee_honker import Event, HonkerDatabase
from peewee_honker.events import HonkerEventTarget

target = HonkerEventTarget(HonkerDatabase(sys.argv[1]))
target.add_listener("order.saved", lambda event: print(event.id))
target.dispatch(Event("order.saved", "its own"))
sys.stdin.readline()
target.close()
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_commits_of_this_and_of_other_processes_are_heard_on_every_system(db, path, system):
    target = HonkerEventTarget(db)
    with outside.Script(RECEIVER, path, SYSTEMS[system]) as script:
        assert script.line() == "its own"
        for number in range(50):
            target.dispatch(Event("order.saved", str(number)))
        assert [script.line() for _ in range(50)] == [str(number) for number in range(50)]
        script.say("")
        script.finish()
