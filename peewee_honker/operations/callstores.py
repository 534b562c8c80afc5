"""Where a call graph is kept: in memory, or as a graph of a database."""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from peewee_honker.events import new_event_id
from peewee_honker.storage import CycleError, GraphRepository
from peewee_honker.storage.columns import json_text
from peewee_honker.storage.install import install_module
from peewee_honker.storage.modules import CallGraph
from peewee_honker.storage.native import create_graph_tables
from peewee_honker.storage.traversal import closes_cycle

__all__ = ["Call", "CallStatus", "CallStore", "Filter", "MemoryCalls", "StoredCalls"]


class CallStatus(StrEnum):
    """Where a call is in its life; the last three are for ever."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_final(self) -> bool:
        """Whether nothing more comes."""
        return self not in (CallStatus.PENDING, CallStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call. Times are in milliseconds since 1970, by the clocks of those who have told of it.

    - `error`: `{code, message, details?}` of one that failed.
    - `started_at`: None when no handler has said that it began.
    """

    request_id: str
    operation_id: str
    status: CallStatus
    requested_at: float
    parent_request_id: str | None = None
    is_subscription: bool = False
    input: Any = None
    output: Any = None
    error: Any = None
    identity: Any = None
    started_at: float | None = None
    completed_at: float | None = None

    @property
    def duration(self) -> float | None:
        """Milliseconds from the start (from the request, where no start was told of) to the end; None before the end."""
        if self.completed_at is None:
            return None
        return self.completed_at - (self.requested_at if self.started_at is None else self.started_at)

    def to_json(self) -> dict[str, Any]:
        """The call as JSON values."""
        return {
            "request_id": self.request_id,
            "operation_id": self.operation_id,
            "status": self.status.value,
            "parent_request_id": self.parent_request_id,
            "is_subscription": self.is_subscription,
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "identity": self.identity,
            "requested_at": self.requested_at,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
            "duration": self.duration,
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls are asked for: of a status, of an operation, requested at a time or later, before a place in the list."""

    status: CallStatus | None = None
    operation_id: str | None = None
    since: float | None = None
    before: tuple[float, str] | None = None
    finished: bool = False


class CallStore(Protocol):
    """What the projection asks of where the calls are."""

    def atomic(self) -> AbstractContextManager[Any]:
        """All changes of a block, or none."""

    def get(self, request_id: str) -> Call | None:
        """A call, if it is there."""

    def add(self, call: Call) -> None:
        """Add a call below its parent and above its children, those that are there. Raises CycleError."""

    def replace(self, call: Call) -> None:
        """Change a call that is there; its parent stays."""

    def below(self, request_id: str) -> list[Call]:
        """The calls that a call has led to, in any order."""

    def newest(self, wanted: Filter, most: int) -> list[Call]:
        """Calls, the one that was requested last first."""

    def slowest(self, wanted: Filter, most: int) -> list[Call]:
        """Finished calls, the longest first."""

    def forget(self, before: float, most: int) -> int:
        """Remove calls that were requested before a time, the oldest first. Gives how many."""

    def clear(self) -> None:
        """Remove all."""


class MemoryCalls:
    """The calls in this process's memory."""

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}
        self._children: dict[str, dict[str, None]] = {}  # of parents that may not be known yet

    def atomic(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def get(self, request_id: str) -> Call | None:
        return self._calls.get(request_id)

    def add(self, call: Call) -> None:
        above = self._calls.get(call.parent_request_id or "")
        while above is not None:
            if above.parent_request_id == call.request_id:
                raise CycleError(f"the call {call.request_id} would be its own parent", [call.request_id, above.request_id])
            above = self._calls.get(above.parent_request_id or "")
        self._calls[call.request_id] = call
        if call.parent_request_id is not None:
            self._children.setdefault(call.parent_request_id, {})[call.request_id] = None

    def replace(self, call: Call) -> None:
        self._calls[call.request_id] = call

    def below(self, request_id: str) -> list[Call]:
        found: list[Call] = []
        waiting = [request_id]
        while waiting:
            children = self._children.get(waiting.pop(), ())
            found += [self._calls[child] for child in children]
            waiting += children
        return found

    def newest(self, wanted: Filter, most: int) -> list[Call]:
        return sorted(self._wanted(wanted), key=lambda call: (call.requested_at, call.request_id), reverse=True)[:most]

    def slowest(self, wanted: Filter, most: int) -> list[Call]:
        return sorted(self._wanted(wanted), key=lambda call: (-(call.duration or 0), call.request_id))[:most]

    def forget(self, before: float, most: int) -> int:
        old = sorted((call.requested_at, key) for key, call in self._calls.items() if call.requested_at < before)[:most]
        for _, request_id in old:
            parent = self._calls.pop(request_id).parent_request_id
            siblings = self._children.get(parent or "", {})
            siblings.pop(request_id, None)
            if parent is not None and not siblings:
                self._children.pop(parent, None)
        return len(old)

    def clear(self) -> None:
        self._calls.clear()
        self._children.clear()

    def _wanted(self, wanted: Filter) -> Iterator[Call]:
        for call in list(self._calls.values()):
            if (
                wanted.status in (None, call.status)
                and wanted.operation_id in (None, call.operation_id)
                and (wanted.since is None or call.requested_at >= wanted.since)
                and (wanted.before is None or (call.requested_at, call.request_id) < wanted.before)
                and (not wanted.finished or call.completed_at is not None)
            ):
                yield call


_AT = "json_extract(n.metadata, '$.requested_at')"
_INDEX = (
    'CREATE INDEX IF NOT EXISTS "nodes_by_request" ON "nodes" ("graph_id", json_extract("metadata", \'$.requested_at\'), '
    '"key") WHERE json_extract("metadata", \'$.requested_at\') IS NOT NULL'
)
_GRAPH = (
    "SELECT g.id FROM graphs g JOIN graph_types t ON t.id = g.graph_type_id "
    "WHERE t.name = 'CallGraph' AND g.name = ? ORDER BY g.id LIMIT 1"
)
_ONE = "SELECT n.attributes, n.metadata FROM nodes n WHERE n.graph_id = ? AND n.key = ?"
_MANY = f"SELECT n.attributes, n.metadata FROM nodes n WHERE n.graph_id = ? AND {_AT} IS NOT NULL"
_WAITING = "SELECT key FROM call_nodes WHERE parent_request_id = ? AND +graph_id = ? ORDER BY key"
_FORGET = (
    "DELETE FROM nodes WHERE graph_id = ? AND key IN (SELECT n.key FROM nodes n WHERE n.graph_id = ? "
    f"AND {_AT} < ? ORDER BY {_AT}, n.key LIMIT ?)"
)
_ADD = "INSERT INTO nodes (id, graph_id, key, attributes, metadata) VALUES (?, ?, ?, ?, ?)"
_CHANGE = "UPDATE nodes SET attributes = ?, updated_at = unixepoch() WHERE graph_id = ? AND key = ?"
_LINK = (
    "INSERT INTO edges (id, graph_id, source_node_key, target_node_key, metadata) "
    'SELECT ?, n.graph_id, n.key, ?, \'{"type":"triggered"}\' FROM nodes n WHERE n.graph_id = ? AND n.key = ?'
)
_BELOW = (
    "WITH RECURSIVE reach(key) AS (SELECT target_node_key FROM edges WHERE graph_id = ? AND source_node_key = ? "
    "AND json_extract(metadata, '$.type') = 'triggered' "
    "UNION SELECT e.target_node_key FROM reach JOIN edges e ON e.graph_id = ? AND e.source_node_key = reach.key "
    "AND json_extract(e.metadata, '$.type') = 'triggered') "
    "SELECT n.attributes, n.metadata FROM reach JOIN nodes n ON n.graph_id = ? AND n.key = reach.key"
)
_KEPT = ("parent_request_id", "input", "output", "error", "identity", "started_at", "completed_at")


class StoredCalls:
    """The calls as nodes of a graph of the type `CallGraph`, with a `triggered` edge from each call to those it has made.

    Arguments:
        database: a HonkerDatabase.
        graph: the graph's name.
        create: make the tables and the graph; without it LookupError is raised when there are none.
    """

    def __init__(self, database: Any, graph: str, *, create: bool = True) -> None:
        self.database = database
        if create:
            with database.atomic():
                create_graph_tables(database)
                install_module(database, CallGraph)
                database.execute_sql(_INDEX)
                found = database.execute_sql(_GRAPH, (graph,)).fetchone()
                self._graph_id = found[0] if found else GraphRepository.create(database, graph, CallGraph.name).graph_id
            return
        found = database.table_exists("call_nodes") and database.execute_sql(_GRAPH, (graph,)).fetchone()
        if not found:
            raise LookupError(f"there is no call graph {graph!r} in {database.database}")
        self._graph_id = found[0]

    def atomic(self) -> AbstractContextManager[Any]:
        if self.database.in_transaction():
            return nullcontext()  # no savepoint: what is refused is refused before it is written
        made: AbstractContextManager[Any] = self.database.atomic()
        return made

    def get(self, request_id: str) -> Call | None:
        row = self.database.execute_sql(_ONE, (self._graph_id, request_id)).fetchone()
        return _call_of(*row) if row else None

    def add(self, call: Call) -> None:
        # What a GraphRepository would ask is known here: the attributes are right, and only children that were there before
        # can close a cycle. It would take ten times as long.
        run, graph_id, parent = self.database.execute_sql, self._graph_id, call.parent_request_id
        waiting = [child for (child,) in run(_WAITING, (call.request_id, graph_id)).fetchall()]
        if parent is not None and any(closes_cycle(self.database, graph_id, parent, child) for child in waiting):
            raise CycleError(f"the call {call.request_id} would be its own parent", [call.request_id, parent])
        metadata = {"type": "call", "requested_at": call.requested_at}
        if call.is_subscription:
            metadata["subscription"] = True
        run(_ADD, (new_event_id(), graph_id, call.request_id, json_text(_attributes(call)), json_text(metadata)))
        if parent is not None:
            run(_LINK, (new_event_id(), call.request_id, graph_id, parent))
        for child in waiting:
            run(_LINK, (new_event_id(), child, graph_id, call.request_id))

    def replace(self, call: Call) -> None:
        self.database.execute_sql(_CHANGE, (json_text(_attributes(call)), self._graph_id, call.request_id))

    def below(self, request_id: str) -> list[Call]:
        graph_id = self._graph_id
        return self._calls(_BELOW, (graph_id, request_id, graph_id, graph_id))

    def newest(self, wanted: Filter, most: int) -> list[Call]:
        return self._listed(wanted, f"{_AT} DESC, n.key DESC", most)

    def slowest(self, wanted: Filter, most: int) -> list[Call]:
        began = f"coalesce(json_extract(n.attributes, '$.started_at'), {_AT})"
        return self._listed(wanted, f"json_extract(n.attributes, '$.completed_at') - {began} DESC, n.key", most)

    def forget(self, before: float, most: int) -> int:
        graph_id = self._graph_id
        cursor = self.database.execute_sql(_FORGET, (graph_id, graph_id, before, most))
        return int(self.database.rows_affected(cursor))

    def clear(self) -> None:
        self.database.execute_sql("DELETE FROM nodes WHERE graph_id = ?", (self._graph_id,))

    def _listed(self, wanted: Filter, order: str, most: int) -> list[Call]:
        conditions: list[tuple[str, Iterable[Any]]] = []
        if wanted.status is not None:
            conditions.append(("json_extract(n.attributes, '$.status') = ?", (wanted.status.value,)))
        if wanted.operation_id is not None:
            conditions.append(("json_extract(n.attributes, '$.operation_id') = ?", (wanted.operation_id,)))
        if wanted.since is not None:
            conditions.append((f"{_AT} >= ?", (wanted.since,)))
        if wanted.before is not None:
            conditions.append((f"({_AT}, n.key) < (?, ?)", wanted.before))
        if wanted.finished:
            conditions.append(("json_extract(n.attributes, '$.completed_at') IS NOT NULL", ()))
        where = "".join(f" AND {condition}" for condition, _ in conditions)
        values = [value for _, some in conditions for value in some]
        return self._calls(f"{_MANY}{where} ORDER BY {order} LIMIT ?", (self._graph_id, *values, most))

    def _calls(self, sql: str, values: Iterable[Any]) -> list[Call]:
        return [_call_of(*row) for row in self.database.execute_sql(sql, tuple(values)).fetchall()]


def _attributes(call: Call) -> dict[str, Any]:
    """What the graph's type has for a call; what is not there is left out."""
    known = {name: value for name in _KEPT if (value := getattr(call, name)) is not None}
    return {"request_id": call.request_id, "operation_id": call.operation_id, "status": call.status.value, **known}


def _call_of(attributes: str, metadata: str) -> Call:
    value, more = json.loads(attributes), json.loads(metadata)
    return Call(
        value["request_id"],
        value["operation_id"],
        CallStatus(value["status"]),
        more["requested_at"],
        is_subscription=bool(more.get("subscription")),
        **{name: value[name] for name in _KEPT if name in value},
    )
