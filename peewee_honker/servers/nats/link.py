"""The connection to NATS: a thread with an event loop, since the client is asyncio's alone, and calls from any thread."""

import asyncio
import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from peewee_honker.errors import HonkerError, PayloadError

__all__ = ["Link", "Message", "NatsError", "NatsUnavailableError", "Subscription"]

logger = logging.getLogger("peewee_honker.nats")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between two attempts to connect again
_CONNECT = 3.0  # seconds that an attempt may take
_NOBODY = 0.1  # seconds until a request that nobody answers is sent again: a server that starts is slow to do so
_MOST_WAITING = 2_000  # messages that may wait to be written before who publishes has to wait
_MOST_UNWRITTEN = 1 << 20  # bytes that the client may hold
_GOODBYE = 2.0  # seconds that the end may take to write what waits
_PING = 10  # seconds between two looks whether a silent server is there


class NatsError(HonkerError):
    """The server refuses what was asked. `code` is its number for the reason, or 0."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class NatsUnavailableError(NatsError):
    """No server answers, it does not let us in, or it has no JetStream. Raised at the start; what runs waits and connects
    again."""


class Message(NamedTuple):
    """What is sent."""

    subject: str
    payload: bytes = b""
    headers: Mapping[str, str] | None = None
    reply: str = ""

    @property
    def size(self) -> int:
        """What counts against the server's `max_payload`."""
        if self.headers is None:
            return len(self.payload)
        return len(self.payload) + sum([len(name) + _size(text) + 4 for name, text in self.headers.items()]) + 16


class _Item:
    """Messages on their way, one after the other, of which the last is answered."""

    __slots__ = ("answer", "done", "error", "is_given_up", "may_repeat", "messages", "token")

    def __init__(self, messages: Sequence[Message], *, may_repeat: bool) -> None:
        self.messages = messages
        self.may_repeat = may_repeat
        self.token = ""
        self.is_given_up = False
        self.answer: Msg | None = None
        self.error: Exception | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def end(self, answer: Msg | None, error: Exception | None = None) -> None:
        self.answer, self.error = answer, error
        self.done.release()


class Subscription:
    """A subject that is received, on each connection anew."""

    def __init__(self, subject: str, callback: Callable[[Msg], None]) -> None:
        self.subject = subject
        self.callback = callback
        self.made: Any = None  # the client's, of the present connection

    async def received(self, message: Msg) -> None:
        """Hand a message over, in the loop's thread."""
        try:
            self.callback(message)
        except Exception:
            logger.exception("a message on %s could not be taken", message.subject)


class Link:
    """A connection that any thread can use at the same time, and that is made anew, with growing pauses, when it is lost.

    Its thread begins with the first use and ends with `close()`. The child of a fork begins its own.

    Arguments:
        url: `nats://[user:password@]host[:port]`, or several with commas between, of one cluster.
        timeout: seconds that a request may take, with the waiting for a connection.
        options: for `nats.connect`, such as `tls`, `user_credentials` or `nkeys_seed`.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.timeout = timeout
        self._options = dict(options or {})
        self.generation = 0
        """Grows with each connection that is made, and in the child of a fork."""
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._attempted = threading.Event()
        self._has_room = threading.Event()
        self._error: Exception | None = None
        self._outbox: deque[_Item | Message] = deque()
        self._waiting: dict[str, _Item] = {}
        self._inbox = ""
        self._number = 0
        self._subscriptions: list[Subscription] = []
        self.max_payload = 1024 * 1024
        """How long a message may be, in bytes, headers included; the server's."""
        self._was_connected = False
        self.on_connected: list[Callable[[], None]] = []
        """Called, in the loop's thread, when there is a connection again."""

    def __repr__(self) -> str:
        return f"NATS at {self.place}"

    @property
    def place(self) -> str:
        """Where the server is, without what is secret."""
        # A password may hold what ends the name of a host, a `/` for instance, though it should not.
        return ", ".join(each.rpartition("@")[2].rpartition("://")[2].partition("/")[0] for each in self._urls)

    @property
    def _urls(self) -> list[str]:
        return [each.strip() for each in self.url.split(",")]

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._client is not None and self._process == os.getpid()

    # For any thread

    def connect(self) -> None:
        """Have a connection, or wait for one as long as a request may take; else raises NatsUnavailableError."""
        self._start()
        if self._client is None:
            deadline = time.monotonic() + self.timeout
            while self._client is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if self._client is None:
                raise self._unavailable()

    def send(self, message: Message, *, patient: bool = False) -> None:
        """Send a message that nobody answers; returns when it is on its way. Raises NatsUnavailableError when there is no
        connection. Who is `patient` waits while more is sent than can be written."""
        if self._client is None or self._process != os.getpid():
            self._start()
            if self._client is None:
                raise self._unavailable()
        if (len(message.payload) if message.headers is None else message.size) > self.max_payload:
            raise self._too_long(message)
        if patient and len(self._outbox) > _MOST_WAITING and threading.current_thread() is not self._thread:
            self._has_room.clear()
            self._kick()
            self._has_room.wait(self.timeout)
        self._outbox.append(message)
        if not self._is_draining:
            self._kick()

    def new_inbox(self) -> str:
        """A subject for answers, of one's own."""
        return f"{self._options.get('inbox_prefix', '_INBOX')}.{uuid.uuid4().hex}"

    def ask(self, *messages: Message, may_repeat: bool = True) -> Msg:
        """Send messages one after the other and give the answer to the last.

        Arguments:
            may_repeat: send again when the connection was lost before the answer came, or when nobody answers.

        Raises NatsUnavailableError when no answer comes in time: whether the server has had it is not known then.
        """
        return self.ask_each([messages], may_repeat=may_repeat)[0]

    def ask_each(self, groups: Sequence[Sequence[Message]], *, may_repeat: bool = True) -> list[Msg]:
        """As `ask` for each group of messages, all under way at once; in their order, unless one is sent again."""
        self._start()
        if threading.current_thread() is self._thread:
            raise RuntimeError("this thread is NATS's own: it cannot wait for an answer")
        for group in groups:
            for message in group:
                if message.size > self.max_payload:
                    raise self._too_long(message)
        deadline = time.monotonic() + self.timeout
        items = [_Item(group, may_repeat=may_repeat) for group in groups]
        self._put(items)
        try:
            return [self._answer(item, deadline) for item in items]
        finally:
            for item in items:
                item.is_given_up = True
                self._waiting.pop(item.token, None)

    def _answer(self, item: _Item, deadline: float) -> Msg:
        while True:
            if not item.done.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise self._unavailable()
            if item.error is not None:
                raise item.error
            answer = item.answer
            assert answer is not None  # noqa: S101 # no error
            if answer.headers is None or answer.headers.get("Status") != "503":
                return answer
            if not item.may_repeat or time.monotonic() + _NOBODY > deadline:
                raise NatsUnavailableError(
                    f"nobody answers {item.messages[-1].subject} at {self!r}: does the server run with JetStream (-js), and "
                    "may this user publish there?",
                    503,
                )
            time.sleep(_NOBODY)
            self._put([item])

    def flush(self) -> None:
        """Return when the server has all that was sent and subscribed before. Raises NatsUnavailableError."""
        self.run(self._flush)

    async def _flush(self) -> None:
        await self._drain()
        if self._client is None:
            raise self._unavailable()
        await self._client.flush(timeout=max(1, round(self.timeout)))

    def subscribe(self, subject: str, callback: Callable[[Msg], None]) -> Subscription:
        """Call `callback` with the messages on a subject, in the loop's thread; returns when the server knows of it."""
        made = Subscription(subject, callback)
        self.connect()

        async def subscribe() -> None:
            self._subscriptions.append(made)
            if self._client is None:
                raise self._unavailable()
            await self._subscribe(self._client, made)
            await self._client.flush(timeout=max(1, round(self.timeout)))

        try:
            self.run(subscribe)
        except BaseException:
            self.unsubscribe(made)
            raise
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """Receive a subject no more; nothing if it is not received."""

        async def unsubscribe() -> None:
            if subscription not in self._subscriptions:
                return  # another process's, or of a link that was closed
            self._subscriptions.remove(subscription)
            if subscription.made is not None and self._client is not None:
                await subscription.made.unsubscribe()

        if self._thread is None or self._process != os.getpid():
            return
        try:
            self.run(unsubscribe)
        except (nats.errors.Error, NatsUnavailableError) as error:
            logger.debug("%s ended with its connection: %s", subscription.subject, error)

    def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine function in the loop, and wait for it. The client's errors are raised as NatsUnavailableError."""
        self._start()
        assert self._loop is not None  # noqa: S101 # it was started

        async def main() -> None:
            await function()

        future = asyncio.run_coroutine_threadsafe(main(), self._loop)
        try:
            future.result(self.timeout + 1)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NatsUnavailableError(f"the connection to {self!r} was lost: {_told(error)}") from error

    def close(self) -> None:
        """Write what waits, as far as that takes less than two seconds, and end the thread."""
        if self._process != os.getpid():
            return
        with self._starting:
            thread, loop = self._thread, self._loop
            if thread is None or loop is None:
                return
            self._thread = None
            loop.call_soon_threadsafe(self._stop)
            if threading.current_thread() is not thread:
                thread.join(_GOODBYE * 2)
            self._begin()

    # The thread

    def _start(self) -> None:
        if self._process != os.getpid():
            _abandoned.append(
                (self._loop, self._client, self._task)
            )  # the parent's: not to be touched, not even by the collector
            self._begin()
            self.generation += 1
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is not None:
                return
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._live, args=(loop,), name="peewee-honker-nats", daemon=True)
            self._thread.start()
            self._attempted.wait(_CONNECT * len(self._urls) * 2 + 1)
            if self._client is None:
                error = self._unavailable()
                self.close()
                raise error

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._task = loop.create_task(self._keep_connected())
        try:
            loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass  # closed
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep_connected(self) -> None:
        pause = 0.0
        while True:
            lost = asyncio.Event()
            client = Client()
            try:
                await self._open(client, lost)
                pause = 0.0
                await lost.wait()
                logger.warning("the connection to %r was lost: %s", self, _told(self._error))
            except asyncio.CancelledError:
                await self._say_goodbye(client)
                raise
            except Exception as error:  # whatever the client raises, of wrong options too: nobody else would try again
                if self._error is None or isinstance(error, nats.errors.AuthorizationError):
                    self._error = error
                logger.info("no connection to %r: %s", self, _told(self._error))
            self._let_go()
            await _closed(client)
            self._attempted.set()
            pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _open(self, client: Client, lost: asyncio.Event) -> None:
        """Connect, and subscribe to all that was subscribed."""
        self._error = None

        async def on_error(error: Exception) -> None:
            self._error = error
            logger.log(logging.WARNING if self._client is client else logging.DEBUG, "%r: %s", self, _told(error))

        async def on_closed() -> None:
            if self._client is client:
                self._client = None
            lost.set()

        await client.connect(
            **{
                "name": "peewee_honker",
                "connect_timeout": _CONNECT,
                "ping_interval": _PING,
                "max_outstanding_pings": 2,
                **self._options,
                "servers": self._urls,
                "allow_reconnect": False,  # a new client each time: nothing of the old one's is sent a second time
                "max_reconnect_attempts": 1,
                "reconnect_time_wait": 0,
                "error_cb": on_error,
                "closed_cb": on_closed,
            }
        )
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0)
        for each in list(self._subscriptions):
            await self._subscribe(client, each)
        await client.flush(timeout=max(1, round(self.timeout)))
        if lost.is_set():
            raise nats.errors.ConnectionClosedError
        self.max_payload = client.max_payload
        self.generation += 1
        self._client = client
        self._attempted.set()
        self._start_draining()
        if self._was_connected:
            logger.info("connected to %r again", self)
            for hook in list(self.on_connected):
                hook()
        self._was_connected = True

    async def _subscribe(self, client: Client, subscription: Subscription) -> None:
        # What waits is bounded by who takes it.
        subscription.made = await client.subscribe(
            subscription.subject, cb=subscription.received, pending_msgs_limit=0, pending_bytes_limit=0
        )

    def _let_go(self) -> None:
        """The connection is lost: what may be sent again waits for the next, what may not has failed."""
        self._client = None
        waiting, self._waiting = list(self._waiting.values()), {}
        for item in reversed(waiting):
            if item.may_repeat:
                self._outbox.appendleft(item)
            else:
                item.end(None, NatsUnavailableError(f"the connection to {self!r} was lost before the answer came"))

    async def _say_goodbye(self, client: Client) -> None:
        if self._client is client:
            try:
                async with asyncio.timeout(_GOODBYE):
                    await self._drain()
                    await client.flush(timeout=1)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                logger.warning("%r: what was sent last may not have arrived: %s", self, _told(error))
        self._client = None
        for item in [*self._waiting.values(), *self._outbox]:
            if isinstance(item, _Item):
                item.end(None, NatsUnavailableError(f"the connection to {self!r} was closed"))
        await _closed(client)

    # What is sent

    def _put(self, items: Sequence[_Item]) -> None:
        self._outbox.extend(items)
        if not self._is_draining:
            self._kick()

    def _kick(self) -> None:
        """Have the outbox written."""
        self._is_draining = True
        loop = self._loop
        if loop is None:
            raise self._unavailable()
        try:
            loop.call_soon_threadsafe(self._start_draining)
        except RuntimeError as error:  # closed
            raise self._unavailable() from error

    def _start_draining(self) -> None:
        if self._loop is not None and (self._drain_task is None or self._drain_task.done()):
            self._drain_task = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        outbox = self._outbox
        while True:
            while outbox and (client := self._client) is not None:
                item = outbox.popleft()
                if type(item) is Message:
                    subject, payload, headers, reply = item
                    try:
                        await client.publish(subject, payload, reply, headers)  # type: ignore[arg-type]
                    except (nats.errors.Error, ValueError) as error:
                        logger.error("a message on %s was not sent: %s", item.subject, _told(error))
                elif isinstance(item, _Item) and not item.is_given_up:
                    await self._write(client, item)
                if client.pending_data_size > _MOST_UNWRITTEN:
                    await self._write_out(client)
            self._has_room.set()
            self._is_draining = False  # who puts something there from now on says so
            if not self._outbox or self._client is None:
                return
            self._is_draining = True

    async def _write_out(self, client: Client) -> None:
        try:
            await client.flush(timeout=max(1, round(self.timeout)))
        except (nats.errors.Error, OSError) as error:  # a lost connection is seen by who keeps it
            logger.debug("%r is slow: %s", self, _told(error))

    async def _write(self, client: Client, item: _Item) -> None:
        self._number += 1
        item.token = str(self._number)
        self._waiting[item.token] = item
        last = item.messages[-1]
        try:
            for message in item.messages:
                reply = f"{self._inbox}.{item.token}" if message is last else ""
                await client.publish(message.subject, message.payload, reply, message.headers)  # type: ignore[arg-type]
        except nats.errors.ConnectionClosedError:
            pass  # it waits, see _let_go
        except (nats.errors.Error, ValueError) as error:
            if self._waiting.pop(item.token, None) is not None:
                item.end(None, NatsError(f"{self!r} does not take {item.messages[0].subject}: {_told(error)}"))

    async def _answered(self, message: Msg) -> None:
        item = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if item is not None:
            item.end(message)

    def _too_long(self, message: Message) -> PayloadError:
        return PayloadError(
            f"a message of {message.size} bytes on {message.subject} is longer than the {self.max_payload} that {self!r} "
            "takes: keep large values in the database and send their key, or raise the server's max_payload"
        )

    def _unavailable(self) -> NatsUnavailableError:
        why = f": {_told(self._error)}" if self._error is not None else ""
        if self._client is not None:
            return NatsUnavailableError(f"{self!r} has not answered within {self.timeout} s{why}")
        return NatsUnavailableError(f"no connection to {self!r}{why}. Is the server running, and is the address right?")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _told(error: Exception | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()) if error is not None else "it was closed"


async def _closed(client: Client) -> None:
    try:
        await client.close()
    except Exception as error:  # AttributeError, AssertionError and others of one that never was open
        logger.debug("closing a connection: %s", _told(error))


_abandoned: list[object] = []
