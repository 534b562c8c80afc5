"""Hub and spokes: events and operations between machines, over WebSockets. Needs `peewee-honker[hub]`."""

from peewee_honker.hub.access import ApiKeyAuthentication, Handshake, Peer, anyone, by_scopes
from peewee_honker.hub.client import WebSocketClientTarget
from peewee_honker.hub.errors import HubConnectionError, HubError, HubRefusedError
from peewee_honker.hub.server import WebSocketServerTarget

__all__ = [
    "ApiKeyAuthentication",
    "Handshake",
    "HubConnectionError",
    "HubError",
    "HubRefusedError",
    "Peer",
    "WebSocketClientTarget",
    "WebSocketServerTarget",
    "anyone",
    "by_scopes",
]
