"""What can go wrong between a hub and those who are connected to it."""

from peewee_honker.errors import HonkerError

__all__ = ["HubConnectionError", "HubError", "HubRefusedError", "MessageError"]


class HubError(HonkerError):
    """Base class of the errors of hubs and spokes."""


class HubConnectionError(HubError, ConnectionError):
    """The hub is away, or went away before it answered: then it is not known whether it has done what it was asked."""


class HubRefusedError(HubError):
    """The hub has said no: `code` is `ACCESS_DENIED`, or what else is wrong with the request or the key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class MessageError(HubError, ValueError):
    """What came over a WebSocket is no message of this protocol."""
