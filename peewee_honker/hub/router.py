"""Calls from one connection of a hub to the operations that another has registered."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peewee_honker.errors import PayloadError
from peewee_honker.events import Event, EventTarget
from peewee_honker.hub import message as protocol
from peewee_honker.hub.access import PUBLISH, SERVE, is_authorized
from peewee_honker.hub.errors import HubRefusedError, MessageError
from peewee_honker.hub.executing import Executing
from peewee_honker.hub.server import WebSocketServerTarget
from peewee_honker.hub.subscriber import Subscriber
from peewee_honker.operations.errors import (
    ACCESS_DENIED,
    OPERATION_NOT_FOUND,
    TIMEOUT,
    UNAVAILABLE,
    UNKNOWN_ERROR,
    OperationError,
)
from peewee_honker.operations.registry import OperationRegistry
from peewee_honker.operations.spec import OperationSpec

__all__ = ["HUB", "Router"]

logger = logging.getLogger("peewee_honker.hub")

HUB = "hub"
"""The name under which the hub's own operations are called."""
_REQUESTED, _ERROR, _ABORTED = "call.requested", "call.error", "call.aborted"
_ANSWERS = ("call.responded", "call.completed", _ERROR)
_MOST_CALLS = 1000  # of one connection at a time
_MOST_OPERATIONS = 1000  # of one spoke
_GRACE = 1.0  # seconds that an answer may come after its deadline
_LONGEST_TIMER = 86_400.0  # seconds
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(slots=True, eq=False)
class _Spoke:
    subscriber: Subscriber
    specs: dict[str, OperationSpec]


@dataclass(slots=True, eq=False)
class _Route:
    """A call under way: who has asked, by which id, and who answers (None: the hub itself)."""

    call_id: str
    caller: Subscriber
    request_id: str
    callee: Subscriber | None
    operation_id: str
    is_once: bool
    parent: str | None
    timer: asyncio.TimerHandle | None = None
    children: set[str] = field(default_factory=set)


class Router:
    """Routes calls of `spoke/service/operation`. Belongs to the server's event loop.

    Arguments:
        server: whose connections call and are called.
        registry: the hub's own operations, called as `hub/service/operation`.
        workers: threads for these.

    Each call gets an id of the hub's, so that nobody answers or aborts what is not theirs, and the identity of the
    connection that calls, whatever it says. Only operations of the same tenant are found.
    """

    def __init__(self, server: WebSocketServerTarget, registry: OperationRegistry | None, workers: int) -> None:
        self._server = server
        self._spokes: dict[tuple[str | None, str], _Spoke] = {}
        self._routes: dict[str, _Route] = {}
        self._by_caller: dict[Subscriber, dict[str, str]] = {}
        self._registry = registry
        self._local = _LocalCalls(self)
        self._handler = None if registry is None else Executing(registry, self._local, server.database, workers)
        server.requests[protocol.REGISTER] = self._register
        server.requests[protocol.DISCOVER] = self._discover
        server.on_message = self.take
        server.on_gone = self._gone

    @property
    def spokes(self) -> list[tuple[str | None, str]]:
        """Tenant and name of those who are connected."""
        return list(self._spokes)

    def start(self) -> None:
        """Execute the hub's own operations."""
        if self._handler is not None:
            self._handler.start()

    def stop(self) -> None:
        """Execute no more, when what runs has ended."""
        if self._handler is not None:
            self._handler.stop()

    # Spokes and what they offer

    def _register(self, subscriber: Subscriber, event: Event) -> Any:
        payload = event.payload
        name = payload.get("spoke") if isinstance(payload, Mapping) else None
        operations = payload.get("operations") if isinstance(payload, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(operations, list):
            raise MessageError(
                "a spoke has a name of at most 64 letters, digits, '.', '-' and '_', and a list of operations"
            )
        if name == HUB or len(operations) > _MOST_OPERATIONS:
            raise HubRefusedError(
                "BAD_REQUEST", f"no spoke is called {HUB}, and none has more than {_MOST_OPERATIONS} operations"
            )
        if not is_authorized(self._server.authorize, subscriber.peer, SERVE if operations else PUBLISH, name):
            raise HubRefusedError("ACCESS_DENIED", f"the spoke {name} may not be registered with this key")
        try:
            specs = {spec.id: spec for spec in map(OperationSpec.from_json, operations)}
        except ValueError as error:
            raise MessageError(str(error)[:200]) from error
        if not all(map(_is_sound, specs.values())):
            raise MessageError("an operation's access control is of texts")
        self._take_place(subscriber, name, _Spoke(subscriber, specs))
        logger.info("the spoke %s of %s has registered %s operations", name, subscriber.peer.tenant, len(specs))
        return {}

    def _take_place(self, subscriber: Subscriber, name: str, spoke: _Spoke) -> None:
        place = (subscriber.peer.tenant, name)
        known = self._spokes.get(place)
        if known is not None and known.subscriber is not subscriber:
            if known.subscriber.peer.identity.id != subscriber.peer.identity.id:
                raise HubRefusedError("NAME_TAKEN", f"there is a spoke {name} of somebody else")
            # The same one again, whose first connection has not been noticed to be dead.
            self._server.end(known.subscriber, "the spoke has connected again")
            self._gone(known.subscriber)
        if subscriber.spoke is not None:
            self._spokes.pop((subscriber.peer.tenant, subscriber.spoke), None)
        subscriber.spoke = name
        self._spokes[place] = spoke

    def _discover(self, subscriber: Subscriber, event: Event) -> Any:
        asked = event.payload if isinstance(event.payload, Mapping) else {}
        offered = [(name, spoke.specs) for (tenant, name), spoke in self._spokes.items() if tenant == subscriber.peer.tenant]
        if self._registry is not None:
            offered.append((HUB, {spec.id: spec for spec in self._registry.specs}))
        services: dict[tuple[str, str], list[Any]] = {}
        for name, specs in sorted(offered, key=lambda one: one[0]):
            for spec in specs.values():
                if asked.get("spoke") in (None, name) and asked.get("service") in (None, spec.namespace):
                    services.setdefault((name, spec.namespace), []).append(spec.to_json())
        return {
            "services": [
                {"spoke": name, "service": service, "operations": found} for (name, service), found in services.items()
            ]
        }

    # Calls

    async def take(self, subscriber: Subscriber, event: Event) -> bool:
        """Take a message of a connection, if it is one of calls."""
        if not event.type.startswith("call."):
            return False
        if event.type == _REQUESTED:
            try:
                self._request(subscriber, event)
            except OperationError as error:
                self._tell_error(subscriber, event.id, error)
            except Exception:
                logger.exception("a call of %r could not be passed on", subscriber)
                self._tell_error(subscriber, event.id, OperationError(UNKNOWN_ERROR, "the call could not be passed on"))
        elif event.type == _ABORTED:
            call_id = self._by_caller.get(subscriber, {}).get(event.id)
            if call_id is not None:
                self._abort(call_id)
        elif event.type in _ANSWERS:
            await self.answer(subscriber, event)
        return True

    def _request(self, caller: Subscriber, event: Event) -> None:
        request: Any = event.payload
        operation_id = request.get("operationId") if isinstance(request, Mapping) else None
        parts = operation_id.split("/") if isinstance(operation_id, str) else []
        if len(parts) != 3 or not event.id:
            raise OperationError(UNKNOWN_ERROR, "an operation is called as spoke/service/operation")
        name, id_ = parts[0], f"{parts[1]}.{parts[2]}"
        calls = self._by_caller.setdefault(caller, {})
        if event.id in calls:
            raise OperationError(UNKNOWN_ERROR, "a call of this id is under way")
        if len(calls) >= _MOST_CALLS:
            raise OperationError(UNAVAILABLE, f"a connection has at most {_MOST_CALLS} calls under way")
        callee, spec = self._find(caller, name, id_)
        if not spec.access_control.admits(caller.peer.identity):
            raise OperationError(ACCESS_DENIED, f"{operation_id} is not allowed")
        deadline = _deadline_of(request)
        parent = request.get("parentRequestId")
        above = self._routes.get(parent) if isinstance(parent, str) else None
        is_child = above is not None and above.callee is caller
        call_id = uuid.uuid4().hex
        sent = {"requestId": call_id, "operationId": id_, "input": request.get("input"), "deadline": deadline}
        sent |= {"identity": caller.peer.identity.to_json(), "parentRequestId": parent if is_child else None}
        if isinstance(request.get("metadata"), Mapping):
            sent["metadata"] = request["metadata"]
        made = Event(
            _REQUESTED, call_id, {name: value for name, value in sent.items() if value is not None or name == "input"}
        )
        route = _Route(
            call_id, caller, event.id, callee, str(operation_id), deadline is not None, parent if is_child else None
        )
        self._routes[call_id] = route
        calls[event.id] = call_id
        if is_child and above is not None:
            above.children.add(call_id)
        if deadline is not None:
            left = min(max(0.0, deadline / 1000 - time.time()), _LONGEST_TIMER)
            route.timer = asyncio.get_running_loop().call_later(left + _GRACE, self._expire, call_id)
        if not self._send(callee, made):
            self._remove(route)
            raise OperationError(UNAVAILABLE, f"the spoke {name} is too busy")

    def _find(self, caller: Subscriber, name: str, id_: str) -> tuple[Subscriber | None, OperationSpec]:
        if name == HUB and self._registry is not None:
            return None, self._registry.spec(id_)
        spoke = self._spokes.get((caller.peer.tenant, name))
        if spoke is None:
            raise OperationError(OPERATION_NOT_FOUND, f"no spoke {name} is connected")
        spec = spoke.specs.get(id_)
        if spec is None:
            raise OperationError(OPERATION_NOT_FOUND, f"the spoke {name} has no operation {id_}")
        return spoke.subscriber, spec

    async def answer(self, callee: Subscriber | None, event: Event) -> None:
        """Pass an answer on, if it is of the one who was asked. Whoever answers much waits for the caller, for a moment."""
        route = self._routes.get(event.id)
        if route is not None and route.callee is callee:
            await route.caller.wait_for_room()
            route = self._routes.get(event.id)  # it may have ended meanwhile
        if route is None or route.callee is not callee or not isinstance(event.payload, Mapping):
            return
        if route.is_once or event.type != "call.responded":
            self._remove(route)
        self._send(route.caller, Event(event.type, route.request_id, {**event.payload, "requestId": route.request_id}))

    def _send(self, to: Subscriber | None, event: Event) -> bool:
        """Send a message; False when it cannot be, for who is called. Callers who do not read are dropped."""
        if to is None:
            self._local.give(event)
            return True
        if event.type == _REQUESTED and to.outbox.is_filling:
            return False
        try:
            return to.send(event)
        except PayloadError as error:
            if event.type == _REQUESTED:
                raise OperationError(UNKNOWN_ERROR, f"the input is too large: {error}") from error
            logger.warning("an answer cannot be passed on: %s", error)
            self._tell_error(to, event.id, OperationError(UNKNOWN_ERROR, "the answer is too large for the hub"))
            return False

    def _tell_error(self, caller: Subscriber, request_id: str, error: OperationError) -> None:
        caller.send(Event(_ERROR, request_id, {"requestId": request_id, **error.to_json()}))

    # Ends

    def _remove(self, route: _Route) -> None:
        """A call has ended. What it has called goes on."""
        self._routes.pop(route.call_id, None)
        calls = self._by_caller.get(route.caller)
        if calls is not None:
            calls.pop(route.request_id, None)
            if not calls:
                del self._by_caller[route.caller]
        if route.timer is not None:
            route.timer.cancel()
        above = self._routes.get(route.parent) if route.parent is not None else None
        if above is not None:
            above.children.discard(route.call_id)

    def _abort(self, call_id: str) -> None:
        """End a call, and what it has called."""
        route = self._routes.get(call_id)
        if route is None:
            return
        self._remove(route)
        self._send(route.callee, Event(_ABORTED, call_id, {"requestId": call_id}))
        for child in list(route.children):
            self._abort(child)

    def _expire(self, call_id: str) -> None:
        route = self._routes.get(call_id)
        if route is not None:
            self._abort(call_id)
            self._tell_error(route.caller, route.request_id, OperationError(TIMEOUT, f"{route.operation_id} took too long"))

    def _gone(self, subscriber: Subscriber) -> None:
        """A connection has ended: its calls are aborted, and who waits for it is told."""
        name = subscriber.spoke
        known = None if name is None else self._spokes.get((subscriber.peer.tenant, name))
        if name is not None and known is not None and known.subscriber is subscriber:
            del self._spokes[subscriber.peer.tenant, name]
        for call_id in list(self._by_caller.get(subscriber, {}).values()):
            self._abort(call_id)
        self._by_caller.pop(subscriber, None)
        for route in [route for route in self._routes.values() if route.callee is subscriber]:
            self._remove(route)
            for child in list(route.children):
                self._abort(child)
            told = f"the spoke {name} went away while it executed {route.operation_id}; whether it was done is not known"
            self._tell_error(route.caller, route.request_id, OperationError(UNAVAILABLE, told))

    def take_local(self, event: Event) -> None:
        """A message of the hub's own handler, in a worker's thread."""
        self._server.loop.run(self.answer(None, event))


class _LocalCalls(EventTarget):
    """Calls of the hub's own operations: between its handler and the router."""

    def __init__(self, router: Router) -> None:
        super().__init__(max_bytes=router._server.max_bytes)
        self._router = router

    def _dispatch(self, event: Event) -> None:
        event.to_json(self.max_bytes)
        if event.type in _ANSWERS:
            self._router.take_local(event)

    def give(self, event: Event) -> None:
        self._deliver(event)


def _is_sound(spec: OperationSpec) -> bool:
    access = spec.access_control
    texts = (*access.required_scopes, *access.required_scopes_any, access.resource_type or "", access.resource_action or "")
    return all(isinstance(text, str) for text in texts)


def _deadline_of(request: Mapping[str, Any]) -> float | None:
    deadline = request.get("deadline")
    if deadline is None:
        return None
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 <= deadline < 2**53:
        raise OperationError(UNKNOWN_ERROR, "a deadline is in milliseconds since 1970")
    return deadline
