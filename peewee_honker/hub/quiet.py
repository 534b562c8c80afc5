"""The log of the WebSocket library, without what must not be in a log."""

import logging

__all__ = ["websockets_logger"]


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """Passes on warnings and errors. At the levels below, the library writes down handshakes, with the keys in them, and
    messages."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  (logging's name)
        return level >= logging.WARNING and super().isEnabledFor(level)


websockets_logger = _Quiet(logging.getLogger("peewee_honker.hub.websockets"))
