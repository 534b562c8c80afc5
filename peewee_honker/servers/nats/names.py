"""The names of subjects, streams and keys in NATS, made from texts that may hold any character.

A subject is made of tokens with dots between; spaces, `*` and `>` mean something, and keys and streams allow even less. So a
token keeps letters, digits, `-` and `_`, and each other byte of the UTF-8 text becomes `=` and two hexadecimal digits;
the empty text is `=`. Different texts have different names. A type's dots stay dots, so that other programs can
subscribe to `peewee_honker.stream.orders.event.order.>`.
"""

import hashlib
import re
from functools import lru_cache

__all__ = [
    "BUCKET",
    "DEAD",
    "DEAD_SUBJECTS",
    "ROOT",
    "dead_subject",
    "event_subject",
    "message_id",
    "relay_subject",
    "stream_event_subject",
    "stream_name",
    "stream_subjects",
    "token",
    "type_of",
]

ROOT = "peewee_honker"
BUCKET = "peewee_honker"
"""The key-value bucket with the consumers' places and leases."""
DEAD = "PEEWEE_HONKER_DEAD_LETTERS"
"""The stream of dead letters."""
DEAD_SUBJECTS = f"{ROOT}.dead.>"

_LONGEST = 200  # characters of one name; the server cuts the connection at 4,096 in a line
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_ENCODED = re.compile(r"(?:=[0-9A-F]{2})+")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]{1,200}")


def token(text: str) -> str:
    """A text as one token."""
    if not text:
        return "="
    name = _OTHER.sub(lambda found: "".join(f"={byte:02X}" for byte in _bytes(found[0])), text)
    return name if len(name) <= _LONGEST else _digest(text)


def _type_tokens(type_: str) -> str:
    name = ".".join(map(token, type_.split(".")))
    return name if len(name) <= _LONGEST else _digest(type_)


def type_of(tokens: str) -> str:
    """The type whose tokens these are; of one that was too long, what stands for it."""
    if "=" not in tokens:
        return tokens
    return ".".join("" if part == "=" else _ENCODED.sub(lambda found: _text(found[0]), part) for part in tokens.split("."))


@lru_cache(4096)
def event_subject(prefix: str, type_: str) -> str:
    """The subject of ephemeral events; with the type `>` that of all types."""
    return f"{ROOT}.event.{token(prefix)}.{type_ if type_ == '>' else _type_tokens(type_)}"


def stream_name(stream: str) -> str:
    """What JetStream calls a stream."""
    return f"{ROOT}_{token(stream)}"


def stream_subjects(stream: str) -> str:
    """All subjects of a stream."""
    return f"{ROOT}.stream.{token(stream)}.>"


@lru_cache(4096)
def stream_event_subject(stream: str, type_: str) -> str:
    """The subject of events of a stream."""
    return f"{ROOT}.stream.{token(stream)}.event.{_type_tokens(type_)}"


def relay_subject(stream: str, relay: str) -> str:
    """The subject of what a relay brings to a stream: one for all types, so that its last message is the relay's last."""
    return f"{ROOT}.stream.{token(stream)}.relay.{token(relay)}"


def dead_subject(consumer: str, stream: str = "", offset: int = 0, receiver: str = "") -> str:
    """The subject of a dead letter, which is the same when it is written twice; of a consumer alone, that of all of its."""
    if not stream:
        return f"{ROOT}.dead.{token(consumer)}.>"
    return f"{ROOT}.dead.{token(consumer)}.{token(stream)}.{offset}.{hashlib.sha256(_bytes(receiver)).hexdigest()[:32]}"


def message_id(event_id: str) -> str:
    """An event's id as a header can hold it; different ids stay different, since the server drops what seems double."""
    return event_id if _PLAIN.fullmatch(event_id) else token(event_id)


def _digest(text: str) -> str:
    return "=h" + hashlib.sha256(_bytes(text)).hexdigest()  # no byte is written so


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(encoded: str) -> str:
    return bytes.fromhex(encoded.replace("=", "")).decode(errors="replace")
