"""Hub and spokes: events and operations between machines, over WebSockets. Needs `peewee-honker[hub]`."""

from peewee_honker.hub.access import ApiKeyAuthentication, Handshake, Peer, anyone, by_scopes
from peewee_honker.hub.client import WebSocketClientTarget
from peewee_honker.hub.errors import HubConnectionError, HubError, HubRefusedError
from peewee_honker.hub.hub import Hub
from peewee_honker.hub.server import WebSocketServerTarget
from peewee_honker.hub.spoke import Spoke

__all__ = [
    "ApiKeyAuthentication",
    "Handshake",
    "Hub",
    "HubConnectionError",
    "HubError",
    "HubRefusedError",
    "Peer",
    "Spoke",
    "WebSocketClientTarget",
    "WebSocketServerTarget",
    "anyone",
    "by_scopes",
]
