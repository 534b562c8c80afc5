"""The operators' command, run in processes of its own on real files."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from peewee_honker import HonkerDatabase
from peewee_honker.events import Event, HonkerEventTarget, consumer_places, streams
from tests.support import outside

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-W", "error", "-m", "peewee_honker"]


@pytest.fixture
def environment(path, tmp_path):
    """What the command runs with: the test's file is its database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PEEWEE_HONKER", "NO_COLOR"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PEEWEE_HONKER_DATABASE": path, "PYTHONUNBUFFERED": ""}


@pytest.fixture
def run(environment, tmp_path):
    """`run("streams")` runs the command to its end; `code` is the exit code that it has to have."""

    def run(*arguments, code=0, stdin=None, **variables):
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**environment, **variables},
            cwd=tmp_path,
            timeout=outside.DEADLINE,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        if code:
            assert done.stderr.count("\n") == 1, done.stderr
            return done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.fixture
def start(environment, tmp_path):
    """`start("tail", "*")` starts the command, and its end is the test's."""
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
            env=environment,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def target(db):
    return HonkerEventTarget(db)


@pytest.fixture
def stream(db):
    """Publishes in the stream `orders`."""
    return HonkerEventTarget(db, "durable", stream="orders")


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def tailing(process, publish):
    """Publish until the process has written its first line, so that it listens from now on. Gives the line."""
    first = []
    reader = threading.Thread(target=lambda: first.append(process.stdout.readline()))
    reader.start()
    while reader.is_alive():
        publish()
        reader.join(0.05)
    assert first[0], process.communicate()
    return first[0]


# What it is told


def test_a_file_that_does_not_exist_is_an_error_and_is_not_made(run, tmp_path):
    for command in (["doctor"], ["publish", "a.b"]):
        assert run("-d", "nothing.db", *command, code=1) == "peewee-honker: nothing.db does not exist\n"
    assert not (tmp_path / "nothing.db").exists()


def test_a_file_that_is_not_of_honker_is_left_as_it_is(run, tmp_path):
    plain = tmp_path / "plain.db"
    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(plain)!r}).execute('CREATE TABLE t (x)')"], check=True
    )
    text = tmp_path / "notes.txt"
    text.write_text("a note that is no database")
    before = plain.read_bytes()
    assert "Honker has not been used on" in run("doctor", "--database", "plain.db", code=1)
    assert "not a SQLite database" in run("streams", "-d", "notes.txt", code=1)
    assert "is a directory" in run("streams", "-d", ".", code=1)
    assert plain.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"plain.db", "notes.txt"}


def test_the_file_is_named_by_an_option_before_or_after_the_command_or_by_the_environment(run, stream, path):
    stream.dispatch(Event("order.saved", "1"))
    by_environment = run("streams")
    assert run("-d", path, "streams", PEEWEE_HONKER_DATABASE="elsewhere") == by_environment
    assert run("streams", "-d", path, PEEWEE_HONKER_DATABASE="elsewhere") == by_environment
    assert "--database FILE" in run("streams", code=2, PEEWEE_HONKER_DATABASE="")


USAGE = [
    ([], "COMMAND"),
    (["frobnicate"], "frobnicate"),
    (["tail", "--from", "yesterday"], "no position"),
    (["tail", "--from", "0001-01-01"], "no position"),
    (["consumers", "seek", "billing", "orders", "9" * 19], "no position"),
    (["tail", ":17"], "no topic"),
    (["publish", "__gap__"], "reserved"),
    (["publish", "order.saved", "17", "{customer"], "not JSON"),
    (["publish", "order.saved", "--stream", "orders"], "--durable"),
    (["prune", "streams"], "by what"),
    (["prune", "streams", "--older-than", "soon"], "no duration"),
    (["prune", "notifications", "--older-than", "9" * 400], "no duration"),
    (["dead-letters", "drop"], "--all"),
    (["dead-letters", "replay", "1", "--app", ".shop:bus"], "MODULE:NAME"),
    (["dead-letters", "replay", "1"], "--app"),
]


def test_wrong_usage_is_said_in_one_line(start, db):
    db.connect()
    ending = [(start(*arguments), told) for arguments, told in USAGE]
    for process, told in ending:
        _, errors = process.communicate(timeout=outside.DEADLINE)
        assert (process.returncode, errors.count("\n")) == (2, 1), errors
        assert told in errors


# tail


def test_tail_writes_json_lines_of_what_commits_from_now_on(start, target):
    target.dispatch(Event("order.saved", "before"))
    tail = start("tail", "order.*")
    first = json.loads(tailing(tail, lambda: target.dispatch(Event("order.saved", "17", {"customer": "Zoë"}))))
    assert (first["type"], first["id"], first["payload"]) == ("order.saved", "17", {"customer": "Zoë"})
    assert first["offset"] > 1
    target.dispatch(Event("mail.sent", "1"))
    target.dispatch(Event("order.deleted", "17"))
    types = []
    while "order.deleted" not in types:
        types.append(json.loads(tail.stdout.readline())["type"])
    assert set(types) <= {"order.saved", "order.deleted"}


def test_tail_of_channels_from_a_position_gives_what_is_kept_and_goes_on(run, start, target, db):
    for number in range(5):
        target.dispatch(Event("order.saved", str(number)))
    db.notify("greeting", "hello")
    db.notify("greeting", float("nan"))  # Honker takes it
    assert [event["id"] for event in lines(run("tail", "order.*", "--from", "beginning", "--no-follow"))] == list("01234")
    assert [event["id"] for event in lines(run("tail", "order.*", "--from", "3", "--no-follow"))] == list("34")
    assert run("tail", "--from", "2999-01-01", "--no-follow") == ""
    greeting = lines(run("tail", "greeting", "--from", "2001-01-01T00:00Z", "--no-follow"))
    assert [event["payload"] for event in greeting] == ["hello", "NaN"]

    tail = start("tail", "order.saved", "--from", "4", "--count", "3")
    assert json.loads(tail.stdout.readline())["id"] == "4"
    target.dispatch(Event("order.saved", "5"))
    target.dispatch(Event("order.saved", "6"))
    rest, _ = tail.communicate(timeout=outside.DEADLINE)
    assert [event["id"] for event in lines(rest)] == ["5", "6"]


def test_tail_of_a_stream_from_a_position_gives_what_is_kept_and_goes_on(run, start, stream, target):
    target.dispatch(Event("order.saved", "ephemeral"))
    for number in range(1, 1201):
        stream.dispatch(Event("order.saved", str(number)))
    everything = lines(run("tail", "--stream", "orders", "--from", "beginning", "--no-follow"))
    assert [event["id"] for event in everything] == [str(number) for number in range(1, 1201)]
    assert [event["offset"] for event in everything] == list(range(1, 1201))
    of_one = run("tail", "order.saved:7", "--stream", "orders", "--from", "2001-01-01", "--no-follow")
    assert [event["id"] for event in lines(of_one)] == ["7"]

    tail = start("tail", "--stream", "orders", "--from", "1199", "--count", "2")
    assert json.loads(tail.stdout.readline())["id"] == "1200"
    stream.dispatch(Event("order.saved", "1201"))
    rest, _ = tail.communicate(timeout=outside.DEADLINE)
    assert [event["id"] for event in lines(rest)] == ["1201"]


def test_tail_tells_of_events_that_were_pruned(run, start, stream):
    for number in range(1, 6):
        stream.dispatch(Event("order.saved", str(number)))
    run("prune", "streams", "--count", "0")
    assert "events after 2 and before 6 were missed" in run(
        "tail", "--stream", "orders", "--from", "2", "--no-follow", "--text"
    )

    tail = start("tail", "--stream", "orders", "--from", "2", "--count", "1")
    gap = json.loads(tail.stdout.readline())
    assert (gap["type"], gap["payload"]["before"]) == ("__gap__", 6)
    stream.dispatch(Event("order.saved", "6"))  # the very next offset
    rest, _ = tail.communicate(timeout=outside.DEADLINE)
    assert [event["id"] for event in lines(rest)] == ["6"]


@pytest.mark.parametrize("options", [[], ["--stream", "orders"]], ids=["channels", "stream"])
def test_tail_goes_on_with_the_file_that_has_taken_the_place_of_its_own(start, run, db, path, options):
    publish = ["publish", "order.saved", "new", *(["--durable", *options] if options else [])]
    where = HonkerEventTarget(db, "durable", stream="orders") if options else HonkerEventTarget(db)
    for _ in range(3):
        where.dispatch(Event("order.saved", "old"))
    tail = start("tail", *options)
    tailing(tail, lambda: where.dispatch(Event("order.saved", "old")))
    db.close_engine()
    another = HonkerDatabase(path + ".new")
    another.connect()
    another.close_engine()
    for name in ("-wal", "-shm"):  # or SQLite would take them for the new file's
        os.remove(path + name)
    os.replace(path + ".new", path)
    for line in tail.stdout:
        if json.loads(line)["type"] == "__gap__":
            break
    run(*publish)
    assert json.loads(tail.stdout.readline()).items() >= {"id": "new", "offset": 1}.items()


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
@pytest.mark.parametrize(
    ("number", "code", "options"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["--stream", "orders"])],
)
def test_tail_ends_without_a_word_by_a_signal(start, target, stream, number, code, options):
    tail = start("tail", *options)
    where = stream if options else target
    tailing(tail, lambda: where.dispatch(Event("order.saved", "1")))
    tail.send_signal(number)
    _, errors = tail.communicate(timeout=outside.DEADLINE)
    assert (errors, tail.returncode) == ("", code)


@pytest.mark.parametrize("goes_on", [False, True], ids=["nothing comes", "events come"])
def test_tail_ends_when_nobody_reads_any_more(start, target, goes_on):
    tail = start("tail", "order.*")
    tailing(tail, lambda: target.dispatch(Event("order.saved", "1")))
    tail.stdout.close()
    tail.stdout = None
    if goes_on:
        target.dispatch(Event("order.saved", "2"))
    assert tail.wait(outside.DEADLINE) == 0
    assert tail.stderr.read() == ""


def test_a_listing_whose_reader_has_had_enough_ends_without_a_word(start, stream):
    for number in range(2000):
        stream.dispatch(Event("order.saved", str(number)))
    tail = start("tail", "--stream", "orders", "--from", "beginning", "--no-follow")
    tail.stdout.readline()
    tail.stdout.close()
    tail.stdout = None
    assert tail.wait(outside.DEADLINE) == 0
    assert tail.stderr.read() == ""


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_tail_is_coloured_on_a_terminal_and_lets_nothing_steer_it(environment, db, target, variables):
    import pty

    target.dispatch(Event("order.\x1b[2Jsaved", "1\n2", "\x1b[31m\x9b2J"))
    controller, terminal = pty.openpty()
    environment = {**environment, "TERM": "xterm", **variables}
    arguments = ["tail", "order.*", "--from", "beginning", "--no-follow"]
    done = subprocess.run([*COMMAND, *arguments], stdout=terminal, env=environment, timeout=outside.DEADLINE, check=True)
    os.close(terminal)
    text = os.read(controller, 65536).decode()
    os.close(controller)
    assert done.returncode == 0
    assert ("\x1b[36m" in text) == (not variables)
    plain = text.replace("\x1b[36m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "\x1b" not in plain
    assert "\x9b" not in plain
    assert plain.count("\n") == 1
    assert r"order.\x1b[2Jsaved:1\n2" in plain


def test_tail_writes_an_event_whose_time_is_none(run, db):
    for seconds in (1764000000000, 10**400):
        db.notify("order.saved", {"type": "order.saved", "event_id": "1", "time": seconds})
    told = run("tail", "--text", "--from", "beginning", "--no-follow")
    assert [line.split("  ")[0] for line in told.splitlines()] == ["1764000000000", "-" * 12]
    assert len(lines(run("tail", "--from", "beginning", "--no-follow"))) == 2


# publish


def test_publish_is_heard_as_an_applications_event_is(run, db, target):
    heard = []
    target.add_listener("order.saved", heard.append)
    event_id = run("publish", "order.saved", "17", '{"customer": "Ada"}').strip()
    run("publish", "order.saved")
    run("publish", "order.saved", "18", "-", stdin="[1, 2]\n")
    outside.until(lambda: len(heard) == 3)
    assert [(event.id, event.payload) for event in heard] == [("17", {"customer": "Ada"}), ("", None), ("18", [1, 2])]
    assert heard[0].event_id == event_id
    assert heard[0].origin
    target.close()


def test_publish_of_what_has_no_form_in_json_is_said_in_one_line(run, db):
    db.connect()
    assert run("publish", "order.saved", "17", r'"\ud800"', code=1).count("\n") == 1


def test_an_argument_that_is_not_utf_8_is_said_in_one_line(run, db):
    db.connect()
    assert "is not UTF-8" in run("tail", "--stream", "\udcff", code=2)


def test_publish_with_a_prefix_is_heard_by_tail_with_it(run, db):
    db.connect()
    run("publish", "saved", "1", "--prefix", "shop/")
    assert lines(run("tail", "saved", "--from", "beginning", "--no-follow")) == []
    assert [event["id"] for event in lines(run("tail", "saved", "--from", "0", "--no-follow", "--prefix", "shop/"))] == ["1"]


def test_publish_durable_goes_to_a_stream(run, db):
    db.connect()
    run("publish", "order.saved", "17", "null", "--durable")
    run("publish", "order.saved", "18", "null", "--durable", "--stream", "orders")
    assert [(stream.name, stream.events) for stream in streams(db.engine)] == [("events", 1), ("orders", 1)]


# Listings


def test_listings_of_a_new_file_say_that_there_is_nothing(run, db):
    db.connect()
    assert run("streams") == "no streams have events\n"
    assert run("consumers") == "no consumers are known\n"
    assert run("queues") == "no queues have jobs\n"
    assert run("dead-letters") == "no dead letters\n"


def test_streams_are_listed_with_their_sizes_aligned(run, stream):
    for number in range(12):
        stream.dispatch(Event("order.saved", str(number), "x" * 1000))
    head, row = run("streams").splitlines()
    assert head.split()[:5] == ["stream", "events", "size", "first", "last"]
    assert row.split()[:6] == ["orders", "12", "13.4", "KiB", "1", "12"]
    assert head.index("last") + len("last") == row.index(" 12 ", row.index("KiB")) + len(" 12")


def test_consumers_are_listed_with_their_lag_and_moved_and_forgotten(run, db, stream):
    for number in range(3):
        stream.dispatch(Event("order.saved", str(number)))
    assert "no consumer shipping" in run("consumers", "seek", "shipping", "orders", "1", code=1)
    assert "offset 1 " in run("consumers", "seek", "shipping", "orders", "1", "--create")
    place = {"consumer": "shipping", "stream": "orders", "offset": 1, "lag": 2, "active": False}
    assert place.items() <= json.loads(run("consumers", "--json"))[0].items()
    assert run("consumers").splitlines()[1].split()[:4] == ["shipping", "orders", "1", "2"]
    run("consumers", "seek", "shipping", "orders", "now")
    assert consumer_places(db.engine)[0].lag == 0
    assert "known: shipping in orders" in run("consumers", "forget", "shiping", code=1)
    run("consumers", "forget", "shipping", "orders")
    assert consumer_places(db.engine) == []


def test_a_consumer_that_runs_is_listed_as_active_moved_and_not_forgotten(run, db, stream):
    heard = []
    consumer = HonkerEventTarget(db, "durable", stream="orders", consumer="shipping")
    consumer.add_listener("*", heard.append)
    stream.dispatch(Event("order.saved", "1"))
    outside.until(lambda: heard and not consumer_places(db.engine)[0].lag)
    assert run("consumers").splitlines()[1].split() == ["shipping", "orders", "1", "0", "-", "yes"]
    assert "active" in run("consumers", "forget", "shipping", code=1)
    run("consumers", "seek", "shipping", "orders", "beginning")
    outside.until(lambda: len(heard) == 2, "the event to come again")
    consumer.close()


def test_queues_are_listed_by_the_state_of_their_jobs(run, db):
    mail = db.queue("mail", max_attempts=1)
    mail.enqueue({"to": "Ada"})
    mail.claim_one("worker")
    for _ in range(2):
        mail.enqueue({"to": "Bob"})
    mail.enqueue({"to": "Cyd"}, delay=3600)
    dead = db.queue("dead", max_attempts=1)
    dead.enqueue({})
    dead.claim_one("worker").fail("no such address")
    found = {row["queue"]: row for row in json.loads(run("queues", "--json"))}
    assert {"pending": 3, "scheduled": 1, "processing": 1, "dead": 0}.items() <= found["mail"].items()
    assert {"pending": 0, "processing": 0, "dead": 1}.items() <= found["dead"].items()
    assert run("queues").splitlines()[2].split()[:5] == ["mail", "3", "1", "1", "0"]


# Dead letters

SHOP = """
import os
from peewee import CharField, TextField
from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model
db = HonkerDatabase(os.environ["PEEWEE_HONKER_DATABASE"])
class Order(Model):
    customer = CharField()
    class Meta:
        database = db
class Parcel(db.Model):
    address = TextField()
bus = EventBus(db, consumer="shipping", attempts=1)
orders = bus.bridge(Order, durable=True)
@orders.saved.connect
def ship(sender, event):
    if "BROKEN" in os.environ:
        raise OSError("no van for " + event.payload["customer"])
    Parcel.create(address=event.payload["customer"])
"""
BREAK = """
import os, logging, time
logging.disable()
os.environ["BROKEN"] = "1"
from shop import *
db.create_tables([Order, Parcel])
with bus:
    for name in ("Ada", "Bob", "Cyd"):
        Order.create(customer=name)
    while len(bus.dead_letters()) < 3:
        time.sleep(0.01)
"""


@pytest.fixture
def shop(environment, tmp_path):
    """An application with three dead letters."""
    (tmp_path / "shop.py").write_text(SHOP)
    subprocess.run([sys.executable, "-c", BREAK], cwd=tmp_path, env=environment, check=True, timeout=outside.DEADLINE)


def test_dead_letters_are_listed_and_shown_with_their_traceback(run, shop):
    found = json.loads(run("dead-letters", "--json"))
    assert [letter["event"]["payload"]["customer"] for letter in found] == ["Ada", "Bob", "Cyd"]
    assert run("dead-letters", "list").splitlines()[2].split()[3:7] == ["shipping", "order", "order.saved:2", "shop.ship"]
    assert run("dead-letters", "--consumer", "billing") == "no dead letters\n"
    shown = run("dead-letters", "show", "2")
    assert "OSError: no van for Bob" in shown
    assert 'raise OSError("no van for "' in shown
    assert '"customer": "Bob"' in shown
    assert json.loads(run("dead-letters", "show", "2", "--json")) == found[1]
    assert "no dead letter 9" in run("dead-letters", "show", "9", code=1)


def test_dead_letters_are_replayed_to_the_applications_receivers_and_dropped(run, shop, path):
    replay = ("dead-letters", "replay", "--app", "shop:bus")
    assert "1 of 1 could not be replayed" in run(*replay, "1", code=1, BROKEN="1")  # and is there for the next
    assert run(*replay, "1", "3") == "1: replayed\n3: replayed\n"
    assert outside.rows(path, "SELECT address FROM parcel") == [["Ada"], ["Cyd"]]
    assert run("dead-letters", "drop", "--all", "--consumer", "billing") == ""
    assert run("dead-letters", "drop", "2") == "2: dropped\n"
    assert run("dead-letters") == "no dead letters\n"


def test_replay_says_what_is_wrong_with_the_application(run, shop, tmp_path):
    other = tmp_path / "other.db"
    HonkerDatabase(other).connect()
    replay = ("dead-letters", "replay", "--all", "--app")
    assert "No module named 'shep'" in run(*replay, "shep:bus", code=1)
    assert "is a bus of" in run(*replay, "shop:bus", "-d", "other.db", code=1)
    (tmp_path / "quiet.py").write_text("from shop import bus, orders, ship\norders.saved.disconnect(ship)\n")
    assert "3 of 3" in run(*replay, "quiet:bus", code=1)


def test_a_coroutine_receiver_can_be_replayed_to(run, shop, tmp_path):
    source = SHOP.replace("def ship", "async def ship").replace("Parcel.create(address=", "print(")
    (tmp_path / "shop.py").write_text(source)
    assert run("dead-letters", "replay", "--app", "shop:bus", "1") == "Ada\n1: replayed\n"


# prune


def test_prune_deletes_what_was_asked_for_and_first_says_how_much(run, stream, target):
    for number in range(1200):
        stream.dispatch(Event("order.saved", str(number)))
    assert run("prune", "streams", "--count", "100", "--dry-run") == "orders: 1100 would be deleted\n"
    assert run("prune", "streams", "orders", "--count", "100") == "orders: 1100 deleted\n"
    assert "no stream order " in run("prune", "streams", "order", "--count", "1", code=1)
    target.dispatch(Event("order.saved", "1"))
    assert run("prune", "notifications", "--older-than", "1h") == "notifications: 0 deleted\n"


def test_prune_keeps_what_a_consumer_needs_unless_told_otherwise(run, stream):
    for number in range(10):
        stream.dispatch(Event("order.saved", str(number)))
    run("consumers", "seek", "shipping", "orders", "4", "--create")
    assert run("prune", "streams", "--consumed", "--dry-run") == "orders: 4 would be deleted\n"
    assert run("prune", "streams", "--count", "0") == "orders: 4 deleted\n"
    assert run("prune", "streams", "--count", "1", "--unconsumed") == "orders: 5 deleted\n"


# doctor


def test_doctor_finds_a_healthy_file_healthy_and_is_heard_by_no_pattern(run, target):
    heard = []
    target.add_listener("*", heard.append)
    found = {each["subject"]: each for each in json.loads(run("doctor", "--json"))}
    assert [subject for subject, each in found.items() if each["state"] == "wrong"] == []
    for package in ("honker", "peewee", "marshmallow", "blinker"):
        assert found[package]["value"][0].isdigit()
    version = tuple(int(part) for part in found["SQLite of Honker"]["value"].split()[0].split("."))
    assert (found["SQLite of Honker"]["state"] == "warning") == (version < (3, 51, 3))
    assert found["journal_mode"]["value"] == "wal"
    assert "median" in found["commit to listener"]["value"]
    assert found["integrity"]["value"] == "ok"
    target.dispatch(Event("order.saved", "1"))
    outside.until(lambda: heard)
    assert [event.type for event in heard] == ["order.saved"]
    target.close()


INDEXED = """
import sys
from peewee_honker import HonkerDatabase
db = HonkerDatabase(sys.argv[1])
db.execute_sql("CREATE TABLE t (x TEXT)")
db.execute_sql("CREATE INDEX i ON t (x)")
db.execute_sql(
    "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
    "SELECT hex(randomblob(20)) FROM n"
)
db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
db.close_engine()
"""


def test_doctor_of_a_damaged_file_ends_with_1(run, environment, path, tmp_path):
    subprocess.run([sys.executable, "-c", INDEXED, path], check=True, env=environment, timeout=outside.DEADLINE)
    with open(path, "r+b") as file:
        file.seek(-4096 * 3, os.SEEK_END)
        file.write(b"\xa5" * 4096)
    done = subprocess.run(
        [*COMMAND, "doctor", "--no-latency"], capture_output=True, text=True, env=environment, timeout=outside.DEADLINE
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "wrong    integrity" in done.stdout
    assert "Traceback" not in done.stdout


def publish_orders(path, count):
    db = HonkerDatabase(path)
    target = HonkerEventTarget(db, "durable", stream="orders")
    with db.atomic():
        for number in range(count):
            target.dispatch(Event("order.saved", str(number)))
    db.close_engine()


def test_relay_once_forwards_what_is_there_and_goes_on_behind_it_the_next_time(run, path, tmp_path):
    publish_orders(path, 1200)
    done = json.loads(run("relay", "orders", "honker:///other.db", "--to", "central", "--once"))
    assert done == {"active": True, "lag": 0, "missed": 0, "error": None}
    publish_orders(path, 1)
    run("relay", "orders", "honker:///other.db", "--to", "central", "--once")
    [stream] = json.loads(run("-d", f"{tmp_path}/other.db", "streams", "--json"))
    assert (stream["name"], stream["events"]) == ("central", 1201)


def test_relay_goes_on_until_ctrl_c_and_says_how_it_goes(start, path, tmp_path):
    publish_orders(path, 3)
    process = start("relay", "orders", "honker:///other.db")
    while not json.loads(process.stdout.readline())["active"]:
        pass
    publish_orders(path, 2)
    outside.until(lambda: outside.rows(f"{tmp_path}/other.db", "SELECT count(*) FROM _honker_stream") == [[5]])
    process.send_signal(signal.SIGINT)
    assert process.wait(outside.DEADLINE) == 130
    assert process.stderr.read() == ""


def test_relay_says_what_is_wrong(run, path):
    publish_orders(path, 1)
    assert "URL begins with" in run("relay", "orders", "mysql://x", code=2)
    assert "--timeout is for --once" in run("relay", "orders", "honker:///other.db", "--timeout", "1s", code=2)
    assert "one event" in run("relay", "orders", "honker:///other.db", "--batch", "0", code=2)
