"""The call graph: what was called by whom, what came of it and how long it took, from the events of the calls alone."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from peewee_honker.events import Event, EventTarget, seek
from peewee_honker.operations.callstores import Call, CallStatus, CallStore, Filter, MemoryCalls, StoredCalls
from peewee_honker.operations.protocol import (
    ABORTED,
    CALLS,
    COMPLETED,
    ERROR,
    REQUESTED,
    RESPONDED,
    STARTED,
    is_subscription,
    output_of,
)
from peewee_honker.signals import in_transaction
from peewee_honker.storage.errors import CycleError

__all__ = ["CallGraphProjection", "CallPage", "CallTree"]

logger = logging.getLogger("peewee_honker.operations")

_CONTENTS = frozenset({"input", "output", "error", "identity"})
_FORGOTTEN_AT_ONCE = 10  # by each new call, so that what is old goes faster than new ones come
_BATCH = 500


@dataclass(frozen=True, slots=True)
class CallTree:
    """A call with those that it has made, in the order of the requests."""

    call: Call
    children: tuple["CallTree", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON values: a call's, and `children`."""
        return {**self.call.to_json(), "children": [child.to_json() for child in self.children]}


@dataclass(frozen=True, slots=True)
class CallPage:
    """Some calls; `next` is the cursor with which the list goes on, None at its end."""

    calls: list[Call]
    next: str | None


class CallGraphProjection:
    """The graph of calls that their events tell of.

        graph = CallGraphProjection(db)
        graph.connect(HonkerEventTarget(db, "durable", stream="calls", consumer="call-graph"))

    | event | what it does |
    |---|---|
    | `call.requested` | adds a pending call, below its parent where that is known; when the parent comes later, then |
    | `call.started` | running |
    | `call.responded` | completed; of a subscription running |
    | `call.completed`, `call.error`, `call.aborted` | completed, failed, aborted |

    Completed, failed and aborted are for ever. An event that comes a second time, too late, or of a call that is not known
    changes nothing. A call that would be its own parent, over however many others, is refused by CycleError.

    Arguments:
        database: a HonkerDatabase, in whose graph `graph` (of the type `CallGraph`) the calls are; the tables and the graph
            are made when they are not there. None: in memory, for one process's own use.
        leave_out: which of `input`, `output`, `error`, `identity` are not kept, as they may be secret. Of an error the code
            is kept.
        keep: seconds after its request for which a call is kept, whatever has become of it; None for ever. Each new call
            removes some of those that are older, by the events' times. Give it longer than subscriptions last.
        create: False for who only reads: LookupError is raised when there is no such graph.

    Guarantee: connected to a durable target of the same database, what an event changes commits with the consumer's place,
    so that each takes effect once. The graph depends on the events and their order alone: replayed from the stream's
    beginning they give the same.
    """

    def __init__(
        self,
        database: Any = None,
        *,
        graph: str = "calls",
        leave_out: Iterable[str] = (),
        keep: float | None = None,
        create: bool = True,
    ) -> None:
        self._left_out = frozenset(leave_out)
        if unknown := self._left_out - _CONTENTS:
            raise ValueError(f"there is no {', '.join(sorted(unknown))} to leave out: {', '.join(sorted(_CONTENTS))} can be")
        if keep is not None and keep <= 0:
            raise ValueError(f"calls are kept for a time, not for {keep} s")
        self._database = database
        self._keep = keep
        self._store: CallStore = MemoryCalls() if database is None else StoredCalls(database, graph, create=create)
        self._steps: dict[str, Callable[[Event, Mapping[str, Any]], None]] = {
            REQUESTED: self._requested,
            STARTED: self._started,
            RESPONDED: self._responded,
            COMPLETED: lambda event, _: self._end(event, CallStatus.COMPLETED),
            ERROR: self._failed,
            ABORTED: lambda event, _: self._end(event, CallStatus.ABORTED),
        }

    # Events

    def connect(self, target: EventTarget) -> None:
        """Hear of the calls of a target from now on.

        Raises ValueError for a durable target on which the graph would not commit with the consumer's place: that of another
        database, or of a graph in memory, which needs a `Follower` from the stream's beginning.
        """
        if getattr(target, "mode", None) == "durable":
            if self._database is None:
                raise ValueError(
                    "a graph in memory is gone at a restart, and the consumer's place is not: read the stream from its "
                    "beginning, with Follower(db, stream, projection.apply, position='beginning')"
                )
            if getattr(target, "database", None) is not self._database:
                raise ValueError("the target is on another database: the graph would not commit with the consumer's place")
        target.add_listener(CALLS, self.apply)

    def disconnect(self, target: EventTarget) -> None:
        """Hear of a target's calls no more."""
        target.remove_listener(CALLS, self.apply)

    @in_transaction
    def apply(self, event: Event) -> None:
        """Take an event; what is none of a call's is ignored. Raises CycleError, and has changed nothing then."""
        step = self._steps.get(event.type)
        if step is None or not event.id:
            return
        with self._store.atomic():
            step(event, event.payload if isinstance(event.payload, Mapping) else {})

    def rebuild(self, consumer: str, stream: str = "calls") -> None:
        """Begin anew from what the stream still has: empty the graph and put the consumer at the stream's beginning, in one
        transaction. A process in which the consumer is active goes on there within seconds."""
        if self._database is None:
            raise ValueError("a graph in memory has no consumer's place: make a new one, with a Follower")
        with self._database.atomic():
            self._store.clear()
            seek(self._database, consumer, stream, "beginning", create=True)

    def prune(self) -> int:
        """Remove the calls that are older than `keep` before the latest one. Gives how many. For when no new calls come,
        which remove them by themselves."""
        latest = self._store.newest(Filter(), 1)
        if self._keep is None or not latest:
            return 0
        removed = 0
        while forgotten := self._store.forget(latest[0].requested_at - self._keep * 1000, _BATCH):
            removed += forgotten
        return removed

    # Questions

    def call(self, request_id: str) -> Call | None:
        """A call; None for one that is not known."""
        return self._store.get(request_id)

    def status(self, request_id: str) -> CallStatus | None:
        """Where a call is; None for one that is not known."""
        found = self._store.get(request_id)
        return None if found is None else found.status

    def duration(self, request_id: str) -> float | None:
        """Milliseconds from a call's start to its end; None before the end, and for one that is not known."""
        found = self._store.get(request_id)
        return None if found is None else found.duration

    def tree(self, request_id: str) -> CallTree:
        """A call with all that it has led to. Raises LookupError for one that is not known."""
        root, below = self._with_below(request_id)
        # Children first, and no recursion: calls may be nested deeper than Python's own.
        order, waiting = [], [root]
        while waiting:
            call = waiting.pop()
            order.append(call)
            waiting += below.get(call.request_id, ())
        made: dict[str, CallTree] = {}
        for call in reversed(order):
            children = below.get(call.request_id, ())
            made[call.request_id] = CallTree(call, tuple(made.pop(child.request_id) for child in children))
        return made[request_id]

    def critical_path(self, request_id: str) -> list[Call]:
        """A call, then always the one of its calls that ended last: what the time went to. Raises LookupError."""
        call, below = self._with_below(request_id)
        path = [call]
        while ended := [child for child in below.get(call.request_id, ()) if child.completed_at is not None]:
            call = max(ended, key=lambda child: (child.completed_at, child.request_id))
            path.append(call)
        return path

    def calls(
        self,
        *,
        status: CallStatus | str | None = None,
        operation_id: str | None = None,
        since: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> CallPage:
        """Calls, those requested last first.

        Arguments:
            since: milliseconds since 1970: requested then or later.
            limit: how many at most.
            cursor: of the page before.

        Raises ValueError for what is no status or no cursor.
        """
        wanted = Filter(
            None if status is None else CallStatus(status), operation_id, since, None if cursor is None else _place(cursor)
        )
        found = self._store.newest(wanted, limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        return CallPage(found[:limit], None if last is None else f"{last.requested_at!r}/{last.request_id}")

    def slowest(self, *, operation_id: str | None = None, since: float | None = None, limit: int = 10) -> list[Call]:
        """The calls that have ended after the longest time, that one first; arguments as of `calls`."""
        return self._store.slowest(Filter(None, operation_id, since, finished=True), limit)

    def _with_below(self, request_id: str) -> tuple[Call, dict[str, list[Call]]]:
        root = self._store.get(request_id)
        if root is None:
            raise LookupError(f"no call {request_id} is known")
        below: dict[str, list[Call]] = {}
        for call in sorted(self._store.below(request_id), key=lambda call: (call.requested_at, call.request_id)):
            below.setdefault(call.parent_request_id or "", []).append(call)
        return root, below

    # What an event does

    def _requested(self, event: Event, payload: Mapping[str, Any]) -> None:
        operation_id, parent, at = payload.get("operationId"), payload.get("parentRequestId"), _time_of(event)
        if not isinstance(operation_id, str) or not operation_id:
            logger.debug("the request %s names no operation", event.id)
            return
        if self._store.get(event.id) is not None:
            return
        parent = None if parent is None else str(parent)
        if parent == event.id:
            raise CycleError(f"the call {event.id} would be its own parent", [event.id])
        contents = {name: payload.get(name) for name in ("input", "identity") if name not in self._left_out}
        subscribes = is_subscription(payload)
        self._store.add(Call(event.id, operation_id, CallStatus.PENDING, at, parent, subscribes, **contents))
        if self._keep is not None:
            self._store.forget(at - self._keep * 1000, _FORGOTTEN_AT_ONCE)

    def _started(self, event: Event, _payload: Mapping[str, Any]) -> None:
        call = self._store.get(event.id)
        if call is not None and call.status is CallStatus.PENDING:
            self._store.replace(replace(call, status=CallStatus.RUNNING, started_at=_time_of(event)))

    def _responded(self, event: Event, payload: Mapping[str, Any]) -> None:
        call = self._store.get(event.id)
        if call is not None and call.is_subscription:
            if call.status is CallStatus.PENDING:
                self._store.replace(replace(call, status=CallStatus.RUNNING))
            return
        self._end(event, CallStatus.COMPLETED, **({} if "output" in self._left_out else {"output": output_of(payload)}))

    def _failed(self, event: Event, payload: Mapping[str, Any]) -> None:
        told = ("code",) if "error" in self._left_out else ("code", "message", "details")
        self._end(event, CallStatus.FAILED, error={name: payload[name] for name in told if name in payload})

    def _end(self, event: Event, status: CallStatus, **contents: Any) -> None:
        call = self._store.get(event.id)
        if call is not None and not call.status.is_final:
            self._store.replace(replace(call, status=status, completed_at=_time_of(event), **contents))


def _time_of(event: Event) -> float:
    return round(event.time * 1000, 3) if math.isfinite(event.time) else 0.0


def _place(cursor: str) -> tuple[float, str]:
    at, _, request_id = cursor.partition("/")
    try:
        if request_id:
            return float(at), request_id
    except ValueError:
        pass  # as told below
    raise ValueError(f"{cursor!r} is no cursor of a page of calls")
