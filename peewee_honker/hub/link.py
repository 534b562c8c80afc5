"""The connection of a client to its hub: it is made again when it is lost, and goes on where it was."""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from peewee_honker.events import GAP, Event
from peewee_honker.hub import message as protocol
from peewee_honker.hub.errors import HubConnectionError, HubError, HubRefusedError, MessageError
from peewee_honker.hub.looping import LoopThread
from peewee_honker.hub.outbox import Outbox
from peewee_honker.hub.quiet import websockets_logger

__all__ = ["Link", "Taker"]

logger = logging.getLogger("peewee_honker.hub")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between two attempts
_STEADY = 5.0  # seconds after which a connection counts as good
_MOST_WAITING = 16 * 1024 * 1024  # bytes to be sent
_CLOSE_TIMEOUT = 2.0
_LARGEST = 2**26  # bytes of a message: the hub is trusted, and decides how long events may be


class Taker(Protocol):
    """Who gets the events of a link."""

    max_bytes: int

    def take(self, event: Event, size: int) -> bool:
        """Take an event; False when the hub is to stop until `Link.resume`."""


class _Connect(connect):
    """A connection that follows no redirects: they would take the key elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Link:
    """Keeps a connection, in an event loop of its own.

    Arguments:
        taker: gets the events.
        url, options: of `websockets.connect`.
        heartbeat, timeout: seconds.
        echo: whether to hear what a spoke of this name has published.
    """

    def __init__(
        self, taker: Taker, url: str, options: Mapping[str, Any], *, heartbeat: float, timeout: float, echo: bool
    ) -> None:
        self._taker = taker
        self._url = url
        self._options = options
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._echo = echo
        self.wanted: dict[str, None] = {}
        """The topics that are listened to."""
        self.place: tuple[int, str | None] | None = None
        """The last event that came, or the offset up to which there was none, where something was subscribed to."""
        self.greetings: list[Callable[[], Event]] = []
        """Give requests that each new connection begins with."""
        self.on_connected: list[Callable[[], None]] = []
        """Called in the loop when there is a connection again."""
        self.on_call: Callable[[Event], None] | None = None
        """Takes `call.*` events, in the loop."""
        self.on_lost: Callable[[], None] | None = None
        """Is told that a connection was lost, in the loop."""
        self.error: Exception | None = None
        self.is_catching_up = False
        self.welcome: Mapping[str, Any] = {}
        """What the hub says of itself and this connection."""
        self._loop: LoopThread | None = None
        self._running: asyncio.Task[None] | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._outbox: Outbox | None = None
        self._answers: dict[str, asyncio.Future[Event]] = {}
        self._confirming: dict[str, Callable[[int], None]] = {}  # by request
        self._subscribed: set[str] = set()
        self._welcomed = asyncio.Event()
        self._is_paused = False
        self._going_on: asyncio.Task[None] | None = None
        self._connected = threading.Event()
        self._tried = threading.Condition()

    # For any thread

    @property
    def max_bytes(self) -> int:
        """How long an event's JSON may be, here and at the hub, which ends connections over which much longer ones come."""
        told = self.welcome.get("max_bytes")
        return min(self._taker.max_bytes, told) if isinstance(told, int) else self._taker.max_bytes

    @property
    def is_behind(self) -> bool:
        """Whether events come that were committed a while ago."""
        return self.is_catching_up or self._is_paused

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and all that is wanted was subscribed to."""
        return self._connected.is_set()

    def start(self) -> None:
        """Begin to connect."""
        self._loop = LoopThread("peewee-honker-hub-link")
        self._loop.run(self._begin_to_run())

    def stop(self) -> None:
        """End the connection, and connect no more."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run(self._end())
            loop.stop()

    def wait_connected(self, timeout: float) -> None:
        """Wait for the connection. Raises HubRefusedError, HubConnectionError."""
        with self._tried:
            done = self._tried.wait_for(lambda: self.is_connected or isinstance(self.error, HubRefusedError), timeout)
        if not self.is_connected:
            if done and self.error is not None:
                raise self.error
            raise HubConnectionError(f"{self._url} cannot be reached: {self.error}") from self.error

    def ask(self, request: Event) -> Event:
        """The hub's answer. Raises HubConnectionError when there is no connection, or no answer in time."""
        loop = self._loop
        if loop is None or not self.is_connected:
            raise HubConnectionError(f"{self._url} is not connected: {self.error or 'start() the target'}")
        try:
            return loop.run(self._ask(request), self._timeout)
        except TimeoutError:
            raise HubConnectionError(f"{self._url} has not answered in {self._timeout} s") from None

    def send(self, event: Event, *, waits: bool = False) -> None:
        """Send a message that has no answer. Raises HubConnectionError when there is no connection now, or much waits to be
        sent; with `waits`, and not in the loop, when there is no room for it in time."""
        loop, outbox = self._loop, self._outbox
        if loop is None or outbox is None or not self.is_connected:
            raise HubConnectionError(f"{self._url} is not connected: {self.error or 'start() the target'}")
        data = protocol.encode(event, self.max_bytes)
        if waits and not loop.is_current:
            try:
                loop.run(_put_in_turn(outbox, data), self._timeout)
            except (TimeoutError, CancelledError, RuntimeError):  # the last two: the loop has ended meanwhile
                raise HubConnectionError(f"{self._url} is too slow, or was left: {outbox.size} bytes wait") from None
            return
        if outbox.is_filling:
            raise HubConnectionError(f"{self._url} is too slow: {outbox.size} bytes wait to be sent")
        if loop.is_current:
            outbox.put(data)
        else:
            loop.soon(outbox.put, data)

    def subscribe(self, topic: str, confirmed: Callable[[int], None]) -> str | None:
        """Have a wanted topic subscribed to, now if there is a connection; why not, when the hub refuses it.

        `confirmed` is called in the loop with the offset behind which the topic's events are, before they come.
        """
        if not self.is_connected or self._loop is None:
            return None
        if self._is_paused or topic in self._subscribed:
            return None
        request = self._subscription([topic], None)
        self._confirming[request.event_id] = confirmed
        try:
            answer = self.ask(request)
        finally:
            self._confirming.pop(request.event_id, None)
        if answer.type != protocol.ACK:
            return str(answer.payload)
        refused: dict[str, str] = answer.payload["refused"]
        if topic not in refused:
            self._subscribed.add(topic)
        return refused.get(topic)

    def unsubscribe(self, topic: str) -> None:
        """Tell the hub that a topic is wanted no more."""
        if topic in self._subscribed:
            self._subscribed.discard(topic)
            with contextlib.suppress(HubError):
                self.send(Event(protocol.UNSUBSCRIBE, "", {"topics": [topic]}))

    def resume(self) -> None:
        """There is room for events again."""
        if self._loop is not None:
            self._loop.soon(self._start_going_on)

    # In the loop

    async def _begin_to_run(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            began = loop.time()
            try:
                await self._connect()
                error: Exception = HubConnectionError(f"{self._url} has closed the connection")
            except InvalidStatus as refusal:
                status = refusal.response.status_code
                error = HubConnectionError(f"{self._url} answers with HTTP {status}")
                if status < 500:
                    error = HubRefusedError(f"HTTP {status}", f"{self._url} refuses the connection")
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, HubError) as reason:
                error = reason
            except Exception as reason:  # a hub that says what it should not: as if it were away
                logger.exception("the connection to %s failed", self._url)
                error = reason
            finally:
                lasted = loop.time() - began if self._connected.is_set() else 0.0
                self._lost()
            pause = 0.0 if lasted > _STEADY else pause
            is_refused = isinstance(error, HubRefusedError)
            pause = _LONGEST_PAUSE if is_refused else min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            if type(self.error) is not type(error) or lasted:
                logger.warning("%s is away, trying again: %s: %s", self._url, type(error).__name__, error)
            with self._tried:
                self.error = error
                self._tried.notify_all()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _lost(self) -> None:
        """There is no connection any more."""
        self._connected.clear()
        outbox, self._outbox = self._outbox, None
        if outbox is None:
            return
        outbox.close()
        self._subscribed.clear()
        self._is_paused = self.is_catching_up = False
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(HubConnectionError(f"{self._url} went away before it answered"))
                answer.exception()  # who waits hears of it; nobody may be waiting any more
        if self.on_lost is not None:
            self.on_lost()

    async def _connect(self) -> None:
        """Connect, and receive until the connection ends."""
        async with _Connect(
            self._url,
            compression=None,
            max_size=_LARGEST,
            open_timeout=self._timeout,
            ping_interval=self._heartbeat,
            ping_timeout=self._heartbeat,
            close_timeout=min(self._heartbeat, _CLOSE_TIMEOUT),
            user_agent_header=None,
            logger=websockets_logger,
            **self._options,
        ) as socket:
            outbox = self._outbox = Outbox(socket, _MOST_WAITING, lambda _size: socket.transport.abort())
            self._welcomed = asyncio.Event()  # of this loop
            sending = asyncio.create_task(outbox.run())
            beginning = asyncio.create_task(self._begin())
            receiving = asyncio.create_task(self._receive(socket))
            try:
                await asyncio.wait({beginning, receiving}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    await beginning  # raises what it has failed with
                await receiving
            finally:
                for task in (sending, beginning, receiving):
                    task.cancel()
                await asyncio.gather(sending, beginning, receiving, return_exceptions=True)

    async def _receive(self, socket: Any) -> None:
        async for data in socket:
            self._take(data)

    async def _begin(self) -> None:
        """Say what this connection is for, when the hub has said what it is."""
        await self._welcomed.wait()
        for greeting in self.greetings:
            answer = await self._ask(greeting())
            if answer.type != protocol.ACK:
                told = answer.payload if isinstance(answer.payload, Mapping) else {}
                raise HubRefusedError(str(told.get("code")), f"{self._url} says: {told.get('message')}")
        await self._subscribe_all()
        with self._tried:
            self._connected.set()
            self.error = None
            self._tried.notify_all()
        logger.info("connected to %s", self._url)
        await self._subscribe_all()  # what was wanted meanwhile
        for function in self.on_connected:
            function()

    async def _subscribe_all(self) -> None:
        missing = [topic for topic in list(self.wanted) if topic not in self._subscribed]
        if not missing:
            return
        place = None if self._subscribed else self.place
        answer = await self._ask(self._subscription(missing, place))
        if answer.type != protocol.ACK:
            raise MessageError(f"{self._url} does not take subscriptions: {answer.payload}")
        refused = answer.payload["refused"]
        for topic, reason in refused.items():
            logger.error("%s refuses the topic %s: %s", self._url, topic, reason)
        self._subscribed.update(set(missing) - refused.keys())

    def _subscription(self, topics: list[str], place: tuple[int, str | None] | None) -> Event:
        payload: dict[str, Any] = {"topics": topics, "echo": self._echo}
        if place is not None:
            payload["after"] = list(place)
            self.is_catching_up = True
        return Event(protocol.SUBSCRIBE, "", payload)

    async def _ask(self, request: Event) -> Event:
        outbox = self._outbox
        if outbox is None:
            raise HubConnectionError(f"{self._url} is not connected")
        data = protocol.encode(request, _LARGEST)
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._answers[request.event_id] = answer
        try:
            if not outbox.put(data):
                raise HubConnectionError(f"{self._url} takes no more")
            return await answer
        finally:
            self._answers.pop(request.event_id, None)

    def _take(self, data: str | bytes) -> None:
        """Take a message of the hub. Raises MessageError for what is none."""
        event = protocol.read(data)
        if event.type in (protocol.ACK, protocol.ERROR):
            self._take_answer(event)
        elif event.type == protocol.WELCOME:
            self.welcome = event.payload if isinstance(event.payload, Mapping) else {}
            self._welcomed.set()
        elif event.type == protocol.POSITION:
            self.is_catching_up = False
            if self.place is None or event.payload["offset"] > self.place[0]:
                self._place_is(event.payload["offset"])
        elif event.type.startswith("call."):
            if self.on_call is not None:
                self.on_call(event)
        elif event.type == GAP or not event.type.startswith("__"):
            self._take_event(event, len(data))

    def _take_answer(self, event: Event) -> None:
        answer = self._answers.pop(event.id, None)
        if answer is not None and not answer.done():
            answer.set_result(event)
        if event.type == protocol.ACK and isinstance(event.payload, Mapping) and "refused" in event.payload:
            is_first = not self._subscribed and not self.is_catching_up
            if self.place is None or is_first:  # what came before is of no interest
                self._place_is(event.payload["offset"])
            confirmed = self._confirming.pop(event.id, None)
            if confirmed is not None:
                confirmed(event.payload["offset"])

    def _place_is(self, offset: int) -> None:
        """There is nothing more up to an offset."""
        self.place = (offset, None)
        self._taker.take(Event(protocol.POSITION, "", offset=offset), 0)

    def _take_event(self, event: Event, size: int) -> None:
        if event.type != GAP:
            self.place = (event.offset or 0, event.event_id)
        elif isinstance(event.payload, Mapping) and event.payload.get("before") is None:
            self.place = None  # offsets begin anew
        if not self._taker.take(event, size) and not self._is_paused:
            self._is_paused = True
            self._pausing = asyncio.create_task(self._pause())

    async def _pause(self) -> None:
        """Have the hub stop, as the listeners are slow. What is on its way is taken."""
        topics = list(self._subscribed)
        logger.info("the listeners are slow: asking %s to stop", self._url)
        with contextlib.suppress(HubConnectionError):
            await self._ask(Event(protocol.UNSUBSCRIBE, "", {"topics": topics}))
            self._subscribed.clear()

    def _start_going_on(self) -> None:
        if self._pausing is not None:
            self._going_on = asyncio.create_task(self._go_on(self._pausing))
            self._pausing = None

    async def _go_on(self, pausing: asyncio.Task[None]) -> None:
        await asyncio.wait({pausing})
        if self._is_paused:  # else the connection was lost meanwhile, and another one has begun anew
            self._is_paused = False
            with contextlib.suppress(HubError):
                await self._subscribe_all()


async def _put_in_turn(outbox: Outbox, data: bytes) -> None:
    """Have a message sent, when there is room for it."""
    while outbox.is_filling and outbox.is_open:
        await outbox.room()
    outbox.put(data)
