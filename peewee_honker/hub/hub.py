"""`Hub`: events and operations between spokes."""

from typing import TYPE_CHECKING, Any

from peewee_honker.hub.access import Authenticate
from peewee_honker.hub.router import Router
from peewee_honker.hub.running import run
from peewee_honker.hub.server import WebSocketServerTarget

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.operations.registry import OperationRegistry

__all__ = ["Hub"]


class Hub:
    """A server to which spokes and other clients connect: see `WebSocketServerTarget` for events, `Spoke` for the other end.

        hub = Hub(db, "0.0.0.0", 8765, authenticate=ApiKeyAuthentication(keys), ssl=context)
        hub.run()                                # until Ctrl-C; or: with hub: ...

    Arguments:
        database, host, port, authenticate, options: of WebSocketServerTarget.
        registry: operations of the hub's own, which all tenants call as `hub/service/operation`.
        workers: threads that execute these.

    Operations that a spoke has registered are called by others of its tenant as `spoke/service/operation`. The identity is
    that of the connection that calls; an abort, a deadline and the end of a connection reach what is executed for it.
    """

    def __init__(
        self,
        database: "HonkerDatabase",
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        authenticate: Authenticate,
        registry: "OperationRegistry | None" = None,
        workers: int = 16,
        **options: Any,
    ) -> None:
        self.server = WebSocketServerTarget(database, host, port, authenticate=authenticate, **options)
        """The hub's events: an event target, whose listeners hear those of all tenants."""
        self._router = Router(self.server, registry, workers)

    def __repr__(self) -> str:
        return f"<Hub of {self.server!r}>"

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self.server.port

    @property
    def url(self) -> str:
        """Where spokes find it."""
        return self.server.url

    @property
    def spokes(self) -> list[tuple[str | None, str]]:
        """Tenant and name of the spokes that are connected."""
        return self._router.spokes

    def start(self) -> None:
        """Serve, in threads. Raises OSError when the port cannot be had."""
        self.server.start()
        self._router.start()

    def stop(self) -> None:
        """End all connections, and serve no more."""
        self._router.stop()
        self.server.stop()

    def run(self) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        run(self)

    def __enter__(self) -> "Hub":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
