"""Random histories of publishing, rolling back, restarting, seeking, pruning and crashing, beside a simple model."""

import itertools
import os
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from peewee_honker import Event, HonkerDatabase, Retention
from peewee_honker.events import HonkerEventTarget, seek
from peewee_honker.events.retention import prune_stream
from tests.support import outside

CRASHING = """
    import os, signal, sys
    from peewee_honker import Event, HonkerDatabase
    from peewee_honker.events import HonkerEventTarget
    db = HonkerDatabase(sys.argv[1])
    targets = {"ephemeral": HonkerEventTarget(db), "durable": HonkerEventTarget(db, "durable")}
    with db.atomic():
        targets[sys.argv[2]].dispatch(Event("e", sys.argv[3]))
        if sys.argv[4] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Events(RuleBasedStateMachine):
    """Two targets on one file. The model: what was committed, and from where on each listener has to have heard it."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "test.db")
        self.db = HonkerDatabase(self.path)
        self.numbers = itertools.count()
        self.publish_to = {"ephemeral": HonkerEventTarget(self.db), "durable": HonkerEventTarget(self.db, "durable")}
        self.listening = {}
        self.committed = {"ephemeral": [], "durable": []}
        self.open = []  # transactions and savepoints, the outermost first: what each has published
        self.contexts = []
        self.heard = {"ephemeral": [], "durable": []}
        self.expected = {"ephemeral": [], "durable": []}
        self.gaps = 0
        self.pruned = 0  # how many of the first durable events are gone
        self.place = 0  # of the durable consumer: how many events it has passed
        for mode in ("ephemeral", "durable"):
            self._listen(mode)

    def _listen(self, mode):
        target = HonkerEventTarget(self.db, mode, **({"consumer": "c"} if mode == "durable" else {}))
        target.add_listener("e", lambda event: self.heard[mode].append(event.id))
        target.add_listener("__gap__", self._gap)
        self.listening[mode] = target

    def _gap(self, _event):
        self.gaps += 1

    def _tell(self, mode, id_):
        """An event has committed."""
        self.committed[mode].append(id_)
        if mode in self.listening:
            self.expected[mode].append(id_)
            if mode == "durable":
                self.place = len(self.committed[mode])

    @rule(mode=st.sampled_from(["ephemeral", "durable"]))
    def publish(self, mode):
        id_ = str(next(self.numbers))
        self.publish_to[mode].dispatch(Event("e", id_))
        if self.open:
            self.open[-1].append((mode, id_))
        else:
            self._tell(mode, id_)

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin(self):
        context = self.db.atomic()
        context.__enter__()
        self.contexts.append(context)
        self.open.append([])

    @precondition(lambda self: self.open)
    @rule()
    def commit(self):
        self.contexts.pop().__exit__(None, None, None)
        published = self.open.pop()
        if self.open:
            self.open[-1] += published
        else:
            for mode, id_ in published:
                self._tell(mode, id_)

    @precondition(lambda self: self.open)
    @rule()
    def roll_back(self):
        self.contexts.pop().__exit__(ValueError, ValueError(), None)
        self.open.pop()

    @precondition(lambda self: not self.open)
    @rule(mode=st.sampled_from(["ephemeral", "durable"]), when=st.sampled_from(["before", "after"]))
    def another_process_crashes(self, mode, when):
        id_ = str(next(self.numbers))
        with outside.Script(CRASHING, self.path, mode, id_, when) as script:
            assert script.process.wait(outside.DEADLINE) == -signal.SIGKILL
        if when == "after":
            self._tell(mode, id_)

    @precondition(lambda self: not self.open)
    @rule(mode=st.sampled_from(["ephemeral", "durable"]))
    def restart(self, mode):
        if mode in self.listening:
            self._catch_up(mode)
            self.listening.pop(mode).close()
            return
        if mode == "durable":
            start = max(self.place, self.pruned)
            self.expected[mode] += self.committed[mode][start:]
            self.place = len(self.committed[mode])
        self._listen(mode)
        self._catch_up(mode)

    @precondition(lambda self: not self.open and "durable" not in self.listening)
    @rule(back=st.integers(0, 5))
    def put_elsewhere(self, back):
        self.place = max(0, len(self.committed["durable"]) - back)
        offsets = self.db.execute_sql("SELECT offset FROM _honker_stream ORDER BY offset").fetchall()
        kept = len(self.committed["durable"]) - self.pruned
        behind = min(back, kept)
        seek(self.db, "c", "events", offsets[kept - behind][0] - 1 if behind else "now", create=True)

    @precondition(lambda self: not self.open)
    @rule(count=st.integers(0, 3))
    def prune(self, count):
        if "durable" in self.listening:
            self._catch_up("durable")
        prune_stream(self.db.engine, "events", Retention(age=None, count=count, consumed=False))
        self.pruned = max(self.pruned, len(self.committed["durable"]) - count)

    def _catch_up(self, mode):
        outside.until(lambda: len(self.heard[mode]) >= len(self.expected[mode]), f"{mode}: {self.expected[mode]}")
        assert self.heard[mode] == self.expected[mode]

    @invariant()
    def nothing_is_heard_that_was_not_committed(self):
        for mode in ("ephemeral", "durable"):
            assert set(self.heard[mode]) <= set(self.committed[mode])

    def teardown(self):
        while self.contexts:
            self.contexts.pop().__exit__(ValueError, ValueError(), None)
        try:
            for mode in self.listening:
                self._catch_up(mode)
        finally:
            for target in self.listening.values():
                target.close()
            self.db.close_engine()
            self.folder.cleanup()


def run(examples, steps):
    run_state_machine_as_test(
        Events,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_random_histories_are_heard_as_the_model_says():
    run(examples=10, steps=12)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_random_histories_are_heard_as_the_model_says():
    run(examples=150, steps=40)
