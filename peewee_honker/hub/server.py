"""`WebSocketServerTarget`: a durable stream, heard and written over WebSockets."""

import asyncio
import contextlib
import http
import logging
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import Server, serve
from websockets.exceptions import ConnectionClosed

from peewee_honker.errors import ForwardConflictError, HonkerError, PayloadError, TopicError
from peewee_honker.events import Event, EventTarget, Retention
from peewee_honker.events.event import MAX_BYTES
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.store import store_of
from peewee_honker.hub import message as protocol
from peewee_honker.hub.access import Authenticate, Authorize, Handshake, Peer, by_scopes
from peewee_honker.hub.errors import HubRefusedError, MessageError
from peewee_honker.hub.looping import LoopThread
from peewee_honker.hub.outbox import Outbox
from peewee_honker.hub.publishing import Publishing
from peewee_honker.hub.quiet import websockets_logger
from peewee_honker.hub.reader import Reader
from peewee_honker.hub.subscriber import Subscriber
from peewee_honker.hub.subscriptions import Subscriptions
from peewee_honker.hub.writer import Writer

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Request", "WebSocketServerTarget"]

logger = logging.getLogger("peewee_honker.hub")

_POSITION_EVERY = 5.0  # seconds
_PRUNE_EVERY = 60.0  # seconds
_CLOSE_TIMEOUT = 2.0  # seconds
_FULL = "the hub is full\n"

Request = Callable[[Subscriber, Event], Awaitable[Any] | Any]
"""Answers a request of a connection with a payload; raises what the connection is told."""


class WebSocketServerTarget(EventTarget):
    """Serves a durable stream of a database over WebSockets; see `WebSocketClientTarget` for the other end.

        with WebSocketServerTarget(db, "127.0.0.1", 8765, authenticate=ApiKeyAuthentication(keys)) as server:
            ...

    Arguments:
        database: a HonkerDatabase, the hub's.
        host, port: where to listen; port 0 takes a free one, see `port`.
        authenticate: says who it is, see `ApiKeyAuthentication`; `anyone` for tests.
        authorize: what they may, see `by_scopes`.
        stream: the stream's name.
        ssl: a server's SSLContext. Without it everything goes over the wire as it is, keys too.
        origins: the web pages (`https://shop.example`) from which browsers may connect. Others get 403; programs that are no
            browsers say no origin.
        heartbeat: seconds between two pings; who does not answer one for as long is gone.
        most_behind: bytes that may wait for a connection. Who is further behind is dropped: memory stays bounded, and who
            comes back gets what was missed from the stream.
        on_slow: is called with the `Peer` and the bytes, in a thread, when that happens.
        most_connections: others get 503.
        most_topics: that one connection may subscribe to.
        check_peers: seconds between two looks whether the keys of those who are connected may still be used.
        retention: how long the stream's events are kept.
        max_bytes: how long an event's JSON may be.

    Guarantee: a connection that asks for a topic hears all events of it that commit after it was confirmed, in commit order.
    One that comes back with its last offset gets what it has missed, or a gap event (`__gap__`) where that was deleted. It
    hears what it has subscribed to, and of its tenant (`hub-tenant` in the event's headers) alone. What it publishes is
    committed before it is acknowledged.

    Listeners of this target hear the events of all tenants, while it serves. `dispatch` writes to the stream in the open
    transaction: for those without a tenant, for the tenant that the header `hub-tenant` names, or for all ("*").
    """

    def __init__(
        self,
        database: "HonkerDatabase",
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        authenticate: Authenticate,
        authorize: Authorize = by_scopes,
        stream: str = "hub",
        ssl: tls.SSLContext | None = None,
        origins: Sequence[str] = (),
        heartbeat: float = 20.0,
        most_behind: int = 1024 * 1024,
        on_slow: Callable[[Peer, int], object] | None = None,
        most_connections: int = 1000,
        most_topics: int = 10_000,
        check_peers: float = 10.0,
        retention: Retention | None = None,
        max_bytes: int = MAX_BYTES,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(max_bytes=max_bytes, recorder=recorder)
        self.database = database
        self.stream = stream
        self.authorize = authorize
        self.max_message = max_bytes + protocol.WRAPPING
        self._store = store_of(database)
        self._address = (host, port)
        self._authenticate = authenticate
        self._ssl = ssl
        self._origins = origins
        self._heartbeat = heartbeat
        self._most_behind = most_behind
        self._on_slow = on_slow
        self._most_connections = most_connections
        self._check_peers = check_peers
        self._retention = retention or Retention()
        self._writer = Writer(self._store, stream)
        self._publishing = Publishing(self, self._store, self._writer)
        self.subscribers: set[Subscriber] = set()
        """Who is connected. Of the event loop."""
        self.requests: dict[str, Request] = {
            protocol.SUBSCRIBE: lambda subscriber, event: self._subscriptions.subscribe(subscriber, event.payload),
            protocol.UNSUBSCRIBE: lambda subscriber, event: self._subscriptions.unsubscribe(subscriber, event.payload),
            protocol.NEWEST: lambda _subscriber, _event: {"offset": self._newest()},
            protocol.FORWARDED: self._publishing.forwarded,
            protocol.FORWARD: self._publishing.forward,
        }
        """What answers requests, by type. Their exceptions are told: HubRefusedError with its code."""
        self.on_message: Callable[[Subscriber, Event], Awaitable[bool]] | None = None
        """Takes messages that are no requests (`call.*`); whether it has."""
        self.on_gone: Callable[[Subscriber], None] | None = None
        """Is told of a connection that has ended."""
        self._subscriptions = Subscriptions(self._store, stream, authorize, most_topics, self.max_message)
        self._ending: set[asyncio.Task[None]] = set()
        self._loop: LoopThread | None = None
        self._reader: Reader | None = None
        self._server: Server | None = None

    def __repr__(self) -> str:
        return f"<WebSocketServerTarget {self.url if self._server else 'that does not serve'}>"

    # Life

    @property
    def port(self) -> int:
        """The port on which it listens."""
        if self._server is None:
            raise RuntimeError("the server does not serve: start() it")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = self._address[0]
        return f"{'wss' if self._ssl else 'ws'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def loop(self) -> LoopThread:
        """The event loop of the connections. Raises RuntimeError when it does not serve."""
        if self._loop is None:
            raise RuntimeError("the server does not serve: start() it")
        return self._loop

    @property
    def position(self) -> int:
        """Every event of the stream up to this offset was given to those who are live."""
        return self._subscriptions.position

    def start(self) -> None:
        """Listen, in a thread. Raises OSError when the port cannot be had."""
        if self._loop is not None:
            raise RuntimeError(f"{self!r} serves already")
        self._loop = LoopThread("peewee-honker-hub")
        try:
            self._reader = Reader(self._store, self.stream, self._take, self._on_moved)
            self._subscriptions.position = self._reader.position
            self._loop.run(self._start())
            self._reader.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Say good-bye to all, and listen no more. What was acknowledged is committed."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._loop is not None:
            loop, self._loop = self._loop, None
            loop.run(self._end())
            loop.stop()
        self._server = None

    def close(self) -> None:
        """Remove all listeners, and stop."""
        super().close()
        self.stop()

    def __enter__(self) -> "WebSocketServerTarget":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def _start(self) -> None:
        host, port = self._address
        self._server = await serve(
            self._handle,
            host,
            port,
            ssl=self._ssl,
            origins=[None, *self._origins],  # type: ignore[list-item]  # texts are origins
            process_request=self._admit,
            compression=None,  # a compressor for each connection would take more memory than what waits for it
            max_size=self.max_message,
            max_queue=4,
            ping_interval=self._heartbeat,
            ping_timeout=self._heartbeat,
            close_timeout=min(self._heartbeat, _CLOSE_TIMEOUT),
            server_header=None,
            logger=websockets_logger,
        )
        self._writer.start()
        self._keeping = asyncio.create_task(self._keep())

    async def _end(self) -> None:
        if self._server is None:
            return
        self._keeping.cancel()
        self._server.close()
        await self._server.wait_closed()
        await self._writer.stop()

    # Events

    def _dispatch(self, event: Event) -> None:
        self._store.append(self.stream, event.id, event.to_json(self.max_bytes))

    def _newest(self) -> int:
        return self._store.offset_of(self.stream, "now")

    def _settle(self) -> None:
        if self._reader is not None:
            self._reader.settle()

    def _take(self, events: Sequence[Event], position: int) -> None:
        """Give events to the listeners here, and to those who are connected. In the reader's thread."""
        for event in events:
            self._deliver(event)
        self.loop.run(self._subscriptions.give_all(events, position))

    def _on_moved(self) -> None:
        """Another file has taken the place of the stream's: its offsets begin anew. In the reader's thread."""
        for key, registration in list(self._registrations.items()):
            self._registrations[key] = registration._replace(since=0)

    # Connections

    async def _admit(self, socket: Any, request: Any) -> Any:
        """Look at the request that opens a connection; an answer refuses it."""
        if self._is_full():
            return socket.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, _FULL)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        handshake = Handshake(headers, request.path, str((socket.remote_address or ("",))[0]))
        peer = await asyncio.to_thread(self._authenticate, handshake)
        if peer is None:
            logger.info("refusing a connection from %s: its key is not accepted", handshake.remote)
            response = socket.respond(http.HTTPStatus.UNAUTHORIZED, "the key is not accepted\n")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if self._is_full():  # others have come while the key was looked at
            return socket.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, _FULL)
        socket.peer = peer
        return None

    def _is_full(self) -> bool:
        if len(self.subscribers) < self._most_connections:
            return False
        logger.warning("refusing a connection: there are %s", self._most_connections)
        return True

    async def _handle(self, socket: Any) -> None:
        peer = socket.peer
        subscriber = Subscriber(
            socket, peer, Outbox(socket, self._most_behind, partial(self._drop, socket, peer)), self.max_message
        )
        self.subscribers.add(subscriber)
        sending = asyncio.create_task(subscriber.outbox.run())
        answering = asyncio.create_task(self._answer(subscriber))
        try:
            welcome = {"tenant": peer.tenant, "identity": peer.identity.id, "max_bytes": self.max_bytes}
            subscriber.send(Event(protocol.WELCOME, "", welcome))
            await self._receive(subscriber)
        except ConnectionClosed:
            pass
        except MessageError as error:
            logger.info("ending the connection of %r: %s", subscriber, error)
            self.end(subscriber, str(error)[:100])
            with contextlib.suppress(ConnectionClosed):
                async for _ in socket:  # what is still on its way stands before the other's farewell
                    pass
        finally:
            self.subscribers.discard(subscriber)
            self._subscriptions.forget(subscriber)
            if self.on_gone is not None:
                self.on_gone(subscriber)
            for task in (sending, answering):
                task.cancel()

    def _drop(self, socket: Any, peer: Peer, behind: int) -> None:
        """End the connection of who is too far behind."""
        logger.warning("dropping the connection of %s: %s bytes behind", peer.identity.id, behind)
        socket.transport.abort()  # a farewell would wait behind all the rest
        if self._on_slow is not None:
            asyncio.get_running_loop().run_in_executor(None, partial(_call_back, self._on_slow, peer, behind))

    async def _receive(self, subscriber: Subscriber) -> None:
        async for data in subscriber.socket:
            event = protocol.read(data)
            if event.type.startswith("__"):
                await subscriber.requests.put(event)
            elif self.on_message is None or not await self.on_message(subscriber, event):
                await self._publishing.publish(subscriber, event)

    # Requests

    async def _answer(self, subscriber: Subscriber) -> None:
        """Answer requests one after the other."""
        while True:
            event = await subscriber.requests.get()
            handler = self.requests.get(event.type)
            try:
                if handler is None:
                    raise HubRefusedError("UNKNOWN", f"{event.type} is no request")
                payload = handler(subscriber, event)
                if isinstance(payload, Awaitable):
                    payload = await payload
                self.acknowledge(subscriber, event, payload)
            except Exception as error:
                self.refuse(subscriber, event, error)

    def acknowledge(self, subscriber: Subscriber, event: Event, payload: Any) -> None:
        """Answer a request. Raises PayloadError when the answer is too large."""
        subscriber.send(Event(protocol.ACK, event.event_id, payload))

    def refuse(self, subscriber: Subscriber, event: Event, error: Exception) -> None:
        """Answer a request with an error."""
        code = _CODES.get(type(error), "UNAVAILABLE")
        told = str(error)[:500]
        if isinstance(error, HubRefusedError):
            code = error.code
        elif not isinstance(error, HonkerError):
            logger.error("a request of %r failed", subscriber, exc_info=error)
            told = "the hub cannot do this now"
        subscriber.send(Event(protocol.ERROR, event.event_id, {"code": code, "message": told}))

    # Now and then

    async def _keep(self) -> None:
        """Tell positions to those who have heard nothing for a while, end connections whose keys have ended, and delete
        old events."""
        loop = asyncio.get_running_loop()
        next_pruning = loop.time()
        next_position, next_check = loop.time() + _POSITION_EVERY, loop.time() + self._check_peers
        while True:
            await asyncio.sleep(max(0.0, min(next_position, next_check, next_pruning) - loop.time()))
            if loop.time() >= next_position:
                next_position = loop.time() + _POSITION_EVERY
                self._subscriptions.tell_position()
            if loop.time() >= next_check:
                await self._end_invalid()
                next_check = loop.time() + self._check_peers
            if loop.time() >= next_pruning:
                next_pruning = loop.time() + _PRUNE_EVERY
                await self._prune()

    async def _prune(self) -> None:
        """Delete what the stream need not keep, in batches."""
        try:
            while await self._writer.run(self._store.prune_stream, self.stream, self._retention):
                await asyncio.sleep(0.01)
        except Exception:
            logger.exception("old events of the stream %s could not be deleted", self.stream)

    async def _end_invalid(self) -> None:
        for subscriber in list(self.subscribers):
            try:
                is_valid = await asyncio.to_thread(subscriber.peer.is_valid)
            except Exception:
                logger.exception("whether the key of %r may still be used could not be looked at", subscriber)
                continue
            if not is_valid:
                logger.info("ending the connection of %r: its key has ended", subscriber)
                self.end(subscriber, "the key has ended")

    def end(self, subscriber: Subscriber, reason: str) -> None:
        """End a connection, without waiting for it."""
        subscriber.outbox.close()
        self._subscriptions.forget(subscriber)
        task = asyncio.create_task(subscriber.socket.close(1008, reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _call_back(on_slow: Callable[[Peer, int], object], peer: Peer, behind: int) -> None:
    try:
        on_slow(peer, behind)
    except Exception:
        logger.exception("what is to be called for slow connections failed")


_CODES: dict[type[Exception], str] = {
    PayloadError: "PAYLOAD",
    TopicError: "TOPIC",
    ForwardConflictError: "CONFLICT",
    MessageError: "BAD_REQUEST",
}
