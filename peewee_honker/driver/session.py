"""Running statements: which connection of the engine each goes to, and in which transaction.

Where SQLite keeps something for each connection (the open transaction, the last inserted rowid, `busy_timeout`,
`query_only`), a `Session` keeps it, so that the threads that share the engine's one writer do not see each other's.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from peewee_honker.driver import pragmas
from peewee_honker.driver.cursor import Cursor
from peewee_honker.driver.engine import Engine
from peewee_honker.driver.errors import is_busy, is_closed, is_known, operational, translate
from peewee_honker.driver.mark import TransactionMark
from peewee_honker.driver.parameters import Parameters, bind, encodable
from peewee_honker.driver.pragmas import Pragma
from peewee_honker.driver.rows import Row, Run, as_tuples, learn, names_without_rows, refresh, select, text_with_returning
from peewee_honker.driver.statement import Kind, Statement, savepoint_name, statement_of

__all__ = ["Session"]

logger = logging.getLogger("peewee_honker.driver")

_COUNTS = "SELECT last_insert_rowid() AS a, changes() AS b"


class Session:
    """What a connection is to SQLite: the state it keeps, and how it runs a statement of each kind.

    `timeout` is how many seconds a write waits, for the other threads and processes together, before
    `OperationalError: database is locked`.
    """

    def __init__(self, engine: Engine, timeout: float = 5.0, *, read_only: bool = False) -> None:
        self.engine = engine
        # What holds the writer for this session. Not the session itself: the engine would keep alive what a thread that
        # ended has left behind, and with it the transaction.
        self.token = object()
        self.timeout = timeout
        self.in_transaction = False
        self.total_changes = 0
        self.at_commit: deque[Callable[[], object]] = deque()  # called after a commit, before the writer is another's
        self.after_commit: deque[Callable[[], object]] = deque()  # called when the writer may be another's
        self.mark = TransactionMark(engine)
        self._savepoints: list[tuple[str, int, int]] = []  # the open ones, and how many calls waited when each began
        self._committing = False  # COMMIT was sent, and what follows it is not done yet
        self._last_rowid = 0
        self._changes = 0
        self._began_by_savepoint = False
        self._schema_changed = False  # in the open transaction
        self._write: Run | None = None  # Honker's writer while in a transaction
        self._may_wait = False  # a deferred transaction that has not touched the file: its first lock can be waited for
        self._read_only = read_only
        self._query_only = False  # the pragma
        self._closed = False
        self.is_starting = False  # while the owner sets up what every connection of it asks for
        engine.open(time.monotonic() + timeout)
        engine.connection_opened(self)

    # Running statements

    def run(self, cursor: Cursor, sql: str, parameters: Parameters) -> None:
        """Run one statement and put its result into `cursor`. Raises sqlite3's exceptions."""
        if self._closed:
            self._check_open()
        statement = statement_of(sql)
        values = bind(statement, parameters) if parameters else ()
        try:
            (statement.run or _way_to_run(statement))(self, cursor, statement, values)
        except RuntimeError as error:
            raise self._explained(error, statement, len(values)) from error
        except TypeError:
            encodable(values)
            raise
        except Exception:
            raise
        except BaseException:
            self._settle()
            raise
        cursor.lastrowid = None if statement.kind is Kind.NOTHING else self._last_rowid

    def _prepare(self, statement: Statement) -> None:
        """Raise what SQLite has against the statement, without running it."""
        try:
            self._on_reader(f"EXPLAIN {statement.body}", ())
        except RuntimeError as error:
            if not str(error).startswith("Wrong number of parameters"):  # it was given none
                raise self._explained(error, statement, 0) from error

    def _run_several(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        """Refuse two statements in one text, after the first was found to be right."""
        self._prepare(statement)
        raise sqlite3.ProgrammingError("You can only execute one statement at a time.")

    def _run_nothing(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        cursor.reset()

    def _run_read(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        engine = self.engine
        if statement.exact and not (statement.star or statement.counters or engine.attached or engine.temporary):
            # The short way of most reads: what select() does for a text that is known.
            face = engine.current
            run = self._write or (face.read if face is not None else None)
            if run is not None:
                one_row = statement.may_be_one_row and statement.distinct and len(values) > 1 and values[-2] == 1
                try:
                    rows = run(statement.body if one_row else statement.text, values)
                except RuntimeError as error:
                    if not (is_busy(error) or is_closed(error)):
                        raise
                else:
                    cursor.rowcount = -1
                    cursor.set_rows(as_tuples(rows), statement.columns)
                    return
        named = statement
        if statement.counters:
            learn(self._on_reader, named, values)
            statement = statement_of(statement.with_counters(self._counters()))
        if self.in_transaction:
            rows = self._select_on_writer(self._on_writer, statement, values)
        elif (engine.attached or engine.temporary) and engine.needs_writer(statement.sql):
            with _Holding(self) as run:
                rows = self._select_on_writer(run, statement, values)
        else:
            rows = self._select_on_reader(statement, values)
        cursor.rowcount = -1
        cursor.set_rows(as_tuples(rows), named.columns)

    def _select_on_writer(self, run: Run, statement: Statement, values: Sequence[Any]) -> list[Row]:
        if not statement.star:
            return select(run, statement, values, None)
        attached = self.engine.attached
        if attached or self.engine.temporary or self._schema_changed:
            # Schemas beside main have versions of their own, and a rollback gives a number back: never the same text twice.
            refresh(run, ("main", *attached))
            return select(run, statement, values, str(time.monotonic_ns()))
        return select(run, statement, values, self._schema_version(run))

    def _select_on_reader(self, statement: Statement, values: Sequence[Any]) -> list[Row]:
        run: Run = self._on_reader
        if not statement.star:
            try:
                return select(run, statement, values, None)
            except RuntimeError as error:
                if not self.engine.attached or not str(error).startswith("no such table"):
                    raise
                with _Holding(self) as run:  # a table of an attached file, named without its schema
                    return select(run, statement, values, None)
        while True:
            version = self._schema_version(run)
            rows = select(run, statement, values, version)
            if version == self._schema_version(run):
                return rows
            # The schema changed in between: the names may be of before and the rows of after.

    def _schema_version(self, run: Run) -> str:
        """A name for the state of the schema, no other file's."""
        return f"{self.engine.number}.{run('PRAGMA schema_version', ())[0]['schema_version']}"

    def _run_change(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        """Run an INSERT, UPDATE, DELETE or REPLACE without RETURNING: the short way of most writes."""
        if self._query_only or self._read_only:
            self._refuse_write()
        if cursor.columns is not None:  # of an earlier statement
            cursor.set_rows(iter(()), None)
        write = self._write
        if self.mark.is_due:
            self.mark.set(self._on_writer)
        if write is None:
            counts = self._change_alone(statement, values)
        elif self._may_wait:
            self._on_writer(statement.sql, values)
            counts = write(_COUNTS, ())[0]
        else:
            write(statement.sql, values)
            counts = write(_COUNTS, ())[0]
        self._count(cursor, statement, counts)

    def _change_alone(self, statement: Statement, values: Sequence[Any]) -> Row:
        """Run a change as a transaction of its own; gives the counts that SQLite has for it."""
        engine, sql = self.engine, statement.sql
        deadline = time.monotonic() + self.timeout
        engine.take_writer(self.token, self.timeout)
        try:
            face = engine.current or engine.open(deadline)
            if not statement.of_one_row and self.mark.has_captures(self._on_writer):
                with self._marked(deadline):
                    engine.write(sql, values)
                    counts = engine.write(_COUNTS)[0]
            else:
                try:
                    face.write(sql, values)
                except RuntimeError as error:
                    if not is_busy(error):
                        raise
                    engine.write(sql, values, deadline)
                counts = face.write(_COUNTS, ())[0]
        finally:
            engine.give_writer_back(self.token)
        engine.committed()
        return counts

    @contextlib.contextmanager
    def _marked(self, deadline: float) -> Iterator[None]:
        """A transaction around one statement, of which several changes of captured tables may come: they share its id."""
        write = self.engine.write
        write("BEGIN IMMEDIATE", (), deadline)
        try:
            self.mark.set(self._on_writer)
            yield
            if self.mark.is_set:
                self.mark.clear(self._on_writer)
            write("COMMIT", (), deadline)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # some errors have ended the transaction
                write("ROLLBACK")
            raise
        finally:
            self.mark.forget()

    def _count(self, cursor: Cursor, statement: Statement, counts: Row) -> None:
        self._changes = changes = counts["b"]
        self.total_changes += changes
        if changes and statement.may_insert:
            # When nothing was inserted, another thread's rowid stands there.
            self._last_rowid = counts["a"]
        if statement.is_dml:
            cursor.rowcount = changes

    def _run_write(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        if (self._query_only or self._read_only) and statement.kind in (Kind.WRITE, Kind.SCHEMA):
            self._refuse_write()
        sql = statement.sql
        if statement.returning:
            sql = text_with_returning(statement)
            if statement.star:
                sql = f"{sql.rstrip().rstrip(';')}\n/* {time.monotonic_ns()} */"
        if self.in_transaction:
            if self.mark.is_due and statement.changes_rows:
                self.mark.set(self._on_writer)
            self._write_and_count(cursor, statement, sql, values, self._on_writer)
        else:
            with _Holding(self) as run:
                many = statement.changes_rows and not statement.of_one_row and self.mark.has_captures(self._on_writer)
                with self._marked(time.monotonic() + self.timeout) if many else contextlib.nullcontext():
                    self._write_and_count(cursor, statement, sql, values, run)
            self.engine.committed()

    def _write_and_count(self, cursor: Cursor, statement: Statement, sql: str, values: Sequence[Any], run: Run) -> None:
        if statement.returning and statement.star:
            refresh(run)
        rows = run(sql, values)
        cursor.rowcount = -1
        if statement.changes_rows:
            self._count(cursor, statement, self._on_writer(_COUNTS, ())[0])
        elif statement.kind is Kind.SCHEMA:
            self._schema_changed = self.in_transaction
        if statement.makes_temporary or statement.verb in ("ATTACH", "DETACH"):
            self.engine.note_local_schemas()
        if rows:
            cursor.set_rows(as_tuples(rows), statement.columns or tuple(rows[0]))
        elif statement.returning:
            cursor.set_rows(iter(()), names_without_rows(run, statement))
        else:
            cursor.set_rows(iter(()), None)

    def _refuse_write(self) -> NoReturn:
        raise operational("attempt to write a readonly database", "SQLITE_READONLY")

    def mark_transaction(self, origin: str | None = None) -> str | None:
        """Give the open transaction its id now, and its changes an origin; None where nothing is captured, or while foreign
        keys are not enforced. One that has its id keeps it, and its origin."""
        return self.mark.id if self.mark.is_set else self.mark.set(self._on_writer, origin)

    def write_beside(self, sql: str, values: Sequence[Any]) -> list[Row]:
        """Run a statement of this package's own beside the user's, in the open transaction or alone, and give its rows.

        `lastrowid`, `rowcount` and `total_changes` stay what the user's statements made them.
        """
        try:
            if self._write is not None:  # in a transaction
                return self._on_writer(sql, values) if self._may_wait else self._write(sql, values)
            engine, deadline = self.engine, time.monotonic() + self.timeout
            try:
                engine.take_writer(self.token, self.timeout)
                rows = engine.write(sql, values, deadline)
            finally:
                engine.give_writer_back(self.token)
        except RuntimeError as error:
            raise translate(error) from error
        engine.committed()
        return rows

    def _on_writer(self, sql: str, values: Sequence[Any]) -> list[Row]:
        if self._may_wait:
            rows = self.engine.write(sql, values, time.monotonic() + self.timeout)
            self._may_wait = False
            return rows
        return self.engine.write(sql, values)

    def _on_reader(self, sql: str, values: Sequence[Any]) -> list[Row]:
        return self.engine.read(sql, values, self.timeout)

    def _counters(self) -> dict[str, int]:
        return {"last_insert_rowid": self._last_rowid, "changes": self._changes, "total_changes": self.total_changes}

    # Pragmas

    def _run_pragma(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        pragma = Pragma.of(statement.sql)
        if pragma is None:
            self._run_write(cursor, statement, values)
            return
        pragmas.refuse_if_impossible(pragma)
        if pragma.name in ("busy_timeout", "query_only"):
            rows = self._own_setting(pragma)
        elif pragma.sets_connection and not self.in_transaction:
            rows = []
            if self.engine.settings.get(pragma.name) != statement.sql:
                with _Holding(self):
                    self.engine.set(pragma.name, statement.sql)
                self.engine.changed_by_hand |= not self.is_starting
        elif pragma.is_about_schema:
            rows = self._about_schema(f"{statement.body}\n/* {time.monotonic_ns()} */")
        else:
            rows = self._alone_or_within(statement.sql)
        columns = tuple(rows[0]) if rows else None
        if columns is None and pragma.is_about_schema:
            columns = learn(self._on_reader, statement_of(f"SELECT * FROM pragma_{pragma.name}('')"), ())
        cursor.rowcount = -1
        cursor.set_rows(as_tuples(rows), columns)

    def _about_schema(self, sql: str) -> list[Row]:
        if self.in_transaction or self.engine.attached or self.engine.temporary:
            return self._alone_or_within(sql)
        refresh(self._on_reader)
        return self._on_reader(sql, ())

    def _own_setting(self, pragma: Pragma) -> list[Row]:
        if pragma.name == "query_only":
            if pragma.value is not None:
                self._query_only = pragma.bare_value in ("1", "on", "yes", "true")
                return []
            return [{"query_only": int(self._query_only)}]
        if pragma.value is not None:
            self.timeout = max(0, int(pragma.bare_value)) / 1000
        return [{"timeout": round(self.timeout * 1000)}]

    def _alone_or_within(self, sql: str) -> list[Row]:
        if self.in_transaction:
            return self._on_writer(sql, ())
        with _Holding(self) as run:
            return run(sql, ())

    # Transactions

    def _run_begin(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        """BEGIN takes the write lock at once (IMMEDIATE) unless DEFERRED or EXCLUSIVE is said.

        SQLite's default defers it to the first write, and refuses that with "database is locked", without waiting, when
        another process has written since the first read.
        """
        cursor.reset()
        if self.in_transaction:
            self._on_writer(statement.sql, ())  # SQLite's own error
        self._begin(statement.text)
        self._began_by_savepoint = False

    def _begin(self, sql: str) -> None:
        deadline = time.monotonic() + self.timeout
        self.engine.take_writer(self.token, self.timeout)
        self.engine.holder_thread = threading.get_ident()
        try:
            self.engine.write(sql, (), deadline)
        except BaseException:
            self.engine.abandon(self.token)
            raise
        self.in_transaction = self.mark.is_due = True
        self._write = self.engine.face.write
        self._may_wait = not sql.startswith("BEGIN IMMEDIATE")

    def _run_commit(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        if not self.in_transaction:
            self._run_write(cursor, statement, values)  # SQLite's own error
            return
        cursor.reset()
        self._end(statement, commits=True)
        self._committed()

    def _end(self, statement: Statement, *, commits: bool) -> None:
        """Send what ends the transaction, if it `commits`, or a savepoint."""
        self._committing = commits
        try:
            if commits and self.mark.is_set:
                self.mark.clear(self._on_writer)
            self.engine.write(statement.sql, (), time.monotonic() + self.timeout)
        except Exception:
            self._committing = False
            raise

    def _run_rollback(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        if not self.in_transaction:
            self._run_write(cursor, statement, values)  # SQLite's own error
            return
        cursor.reset()
        self._end_by_rollback(statement.sql)

    def _end_by_rollback(self, sql: str = "ROLLBACK") -> None:
        if self.engine.is_open:
            self._on_writer(sql, ())
        self._ended()

    def _run_savepoint(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        cursor.reset()
        if self.in_transaction:
            self._on_writer(statement.sql, ())
        else:
            self._begin(statement.sql)
            self._began_by_savepoint = True
        self._savepoints.append((savepoint_name(statement), len(self.at_commit), len(self.after_commit)))

    def _run_release(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        if not self.in_transaction:
            self._run_write(cursor, statement, values)  # SQLite's own error
            return
        cursor.reset()
        self._end(statement, commits=self._began_by_savepoint and len(self._savepoints) == 1)
        if self._began_by_savepoint and self._is_over():
            self._committed()
        else:
            self._committing = False
            self._forget_savepoints(statement, including=True)

    def _run_rollback_to(self, cursor: Cursor, statement: Statement, values: Sequence[Any]) -> None:
        self._run_write(cursor, statement, values)
        self.mark.is_due = self.in_transaction  # it may have been set within the savepoint
        mark = self._forget_savepoints(statement, including=False)
        if mark is not None:
            for calls, kept in ((self.at_commit, mark[1]), (self.after_commit, mark[2])):
                while len(calls) > kept:
                    calls.pop()

    def _forget_savepoints(self, statement: Statement, *, including: bool) -> tuple[str, int, int] | None:
        """Forget the savepoints within the one that a statement names, also this one when it is `including`; gives it."""
        name = savepoint_name(statement)
        for index in range(len(self._savepoints) - 1, -1, -1):
            mark = self._savepoints[index]
            if mark[0] == name:
                del self._savepoints[index + (not including) :]
                return mark
        return None

    def _committed(self) -> None:
        while self.at_commit:
            self.at_commit.popleft()()
        then = list(self.after_commit)
        self._ended()
        self.engine.committed()
        for call in then:
            try:
                call()
            except Exception:
                logger.exception("%r failed after a commit; the transaction is committed", call)

    def _ended(self) -> None:
        self.forget_transaction()
        self.engine.give_writer_back(self.token)

    def _settle(self) -> None:
        """After Ctrl-C came between SQLite's work and the notes about it: make the notes say what SQLite has done."""
        mine = self.engine.slot.owner is self.token
        if mine and self.in_transaction and not self._is_over():
            self._committing = False
            return  # the transaction goes on, for its owner to end
        if mine and self._committing:
            self._committed()
            return
        self.forget_transaction()
        self.engine.abandon(self.token)

    def forget_transaction(self) -> None:
        """Forget what is kept for the open transaction: it has ended, or is that of the parent of a fork."""
        self.at_commit.clear()
        self.after_commit.clear()
        self._savepoints.clear()
        self.mark.forget()
        self._committing = self.in_transaction = self._may_wait = self._schema_changed = False
        self._write = None

    def _is_over(self) -> bool:
        """Whether SQLite has ended the transaction, which some errors and an outermost RELEASE do."""
        try:
            self._on_writer("BEGIN", ())
        except RuntimeError:
            return False  # "cannot start a transaction within a transaction"
        self._on_writer("ROLLBACK", ())
        return True

    # Errors

    def _explained(self, error: RuntimeError, statement: Statement, supplied: int) -> Exception:
        by_trigger = statement.changes_rows and self._is_raised_by_trigger(str(error))
        if self.in_transaction and self.engine.is_open and self._is_over():
            self._ended()
        if statement.changes_rows:
            self._changes = 0
        return translate(error, raised_by_trigger=by_trigger, supplied=supplied)

    def _is_raised_by_trigger(self, message: str) -> bool:
        """Whether some trigger can raise this text: Honker gives the text of an error alone."""
        if is_known(message) or not self.engine.is_open:
            return False
        question = "SELECT 1 FROM {} WHERE type = 'trigger' AND instr(sql, ?) LIMIT 1"
        text = (message.replace("'", "''"),)
        run = self._on_writer if self.in_transaction else self._on_reader
        schemas = ["main.sqlite_master", "temp.sqlite_master"] if self.in_transaction else ["main.sqlite_master"]
        try:
            return any(run(question.format(schema), text) for schema in schemas)
        except RuntimeError:
            return False  # the question is only for a better class of the error at hand

    def _check_open(self) -> None:
        if self._closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")


_RUN: dict[Kind, Callable[[Session, Cursor, Statement, Sequence[Any]], None]] = {
    Kind.NOTHING: Session._run_nothing,
    Kind.READ: Session._run_read,
    Kind.WRITE: Session._run_write,
    Kind.SCHEMA: Session._run_write,
    Kind.OTHER: Session._run_write,
    Kind.PRAGMA: Session._run_pragma,
    Kind.BEGIN: Session._run_begin,
    Kind.COMMIT: Session._run_commit,
    Kind.ROLLBACK: Session._run_rollback,
    Kind.SAVEPOINT: Session._run_savepoint,
    Kind.RELEASE: Session._run_release,
    Kind.ROLLBACK_TO: Session._run_rollback_to,
}


def _way_to_run(statement: Statement) -> Callable[..., None]:
    statement.run = Session._run_several if statement.several else _RUN[statement.kind]
    if statement.several:
        return statement.run
    if statement.is_dml and not statement.returning:
        statement.run = Session._run_change
    return statement.run


class _Holding:
    """Hold the writer for statements outside a transaction; gives a function that runs one, waiting for its lock."""

    __slots__ = ("_deadline", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> Run:
        self._deadline = time.monotonic() + self._session.timeout
        self._session.engine.take_writer(self._session.token, self._session.timeout)
        return self._run

    def _run(self, sql: str, values: Sequence[Any]) -> list[Row]:
        return self._session.engine.write(sql, values, self._deadline)

    def __exit__(self, *error: object) -> None:
        self._session.engine.give_writer_back(self._session.token)
