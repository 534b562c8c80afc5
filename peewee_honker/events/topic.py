"""Topics: which listeners an event has.

An event's topic is `type:id`, or its type alone when it has no id. A listener says what it wants to hear:

| topic            | hears                                          |
|------------------|------------------------------------------------|
| `order.saved:17` | that type with that id                         |
| `order.saved`    | that type, with any id                         |
| `order.saved:`   | that type without an id                        |
| `order.*`        | types that begin so, with any id               |
| `order.*:17`     | types that begin so, with that id              |
| `order.saved:a*` | that type, with ids that begin so              |
| `*`              | everything                                     |

`*` stands for any characters, also none. Reserved types (`__...`) are heard only by topics that begin with `__`.
"""

import re
import threading
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

from peewee_honker.errors import TopicError

__all__ = ["Topics", "check_topic"]

L = TypeVar("L", bound=Hashable)

_CACHE = 4096  # types whose matching patterns are remembered


def check_topic(topic: str) -> str:
    """Give the topic back. Raises TopicError when it has no type."""
    if not isinstance(topic, str) or not topic.partition(":")[0]:
        raise TopicError(
            f"{topic!r} is no topic: a topic is a type, or a type, ':' and an id, for instance 'order.saved:17'"
        )
    return topic


class Topics(Generic[L]):
    """Listeners by topic, for many thousand topics: what an event matches is looked up, not searched.

    For any thread. Each listener is given once for an event, however many of its topics match, in the order in which the
    listeners were added.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._numbers = count()
        self._by_topic: dict[str, dict[L, int]] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._matching: dict[str, tuple[str, ...]] = {}  # of a type: the patterns that may match its topics
        self._types: dict[str, int] = {}  # how many topics name a type exactly
        self._found: dict[str, tuple[L, ...] | None] = {}  # by type, where the id does not matter; None where it does

    def __bool__(self) -> bool:
        return bool(self._by_topic)

    def __len__(self) -> int:
        return len(self._by_topic)

    def add(self, topic: str, listener: L) -> bool:
        """Add a listener; it is there once, however often it is added to a topic. Whether the topic is new."""
        check_topic(topic)
        with self._changing:
            known = self._by_topic.get(topic)
            if known is not None:
                if listener not in known:
                    self._by_topic[topic] = {**known, listener: next(self._numbers)}  # who looks now keeps the old one
                    self._found = {}
                return False
            self._by_topic[topic] = {listener: next(self._numbers)}
            if "*" in topic:
                self._patterns[topic] = _compiled(topic)
                self._matching = {}
            else:
                type_ = topic.partition(":")[0]
                self._types[type_] = self._types.get(type_, 0) + 1
            self._found = {}
            return True

    def remove(self, topic: str, listener: L) -> bool:
        """Remove a listener, if it is there. Whether it was the topic's last."""
        with self._changing:
            known = self._by_topic.get(topic, {})
            if listener not in known:
                return False
            left = {other: number for other, number in known.items() if other != listener}
            if left:
                self._by_topic[topic] = left
                self._found = {}
                return False
            del self._by_topic[topic]
            if "*" in topic:
                del self._patterns[topic]
                self._matching = {}
            else:
                type_ = topic.partition(":")[0]
                self._types[type_] -= 1
                if not self._types[type_]:
                    del self._types[type_]
            self._found = {}
            return True

    def may_match(self, type_: str) -> bool:
        """Whether some topic may want events of this type: False is certain."""
        return type_ in self._types or bool(self._patterns and self._patterns_of(type_))

    def match(self, type_: str, id_: str) -> tuple[L, ...]:
        """The listeners of an event."""
        kept = self._found  # before looking: who changes something meanwhile puts another in its place
        found = kept.get(type_)
        if found is not None:
            return found
        found = self._match(type_, id_)
        if type_ not in kept:
            if len(kept) > _CACHE:
                kept.clear()
            kept[type_] = None if self.id_matters(type_) else found
        return found

    def id_matters(self, type_: str) -> bool:
        """Whether the listeners of two events of this type may be others."""
        with_id = self._types.get(type_, 0) > (type_ in self._by_topic)
        return with_id or any(":" in name for name in self._patterns_of(type_))

    def _match(self, type_: str, id_: str) -> tuple[L, ...]:
        by_topic = self._by_topic
        found = [
            listeners
            for topic in (type_, f"{type_}:{id_}")
            if (listeners := by_topic.get(topic))
        ]  # fmt: skip
        if self._patterns:
            topic = f"{type_}:{id_}"
            patterns = self._patterns
            found += [
                listeners
                for name in self._patterns_of(type_)
                if (pattern := patterns.get(name)) and pattern.fullmatch(topic) and (listeners := by_topic.get(name))
            ]
        if not found:
            return ()
        if len(found) == 1:
            return tuple(found[0])
        first: dict[L, int] = {}
        for listeners in found:
            for listener, number in listeners.items():
                first[listener] = min(number, first.get(listener, number))
        return tuple(sorted(first, key=first.__getitem__))

    def _patterns_of(self, type_: str) -> tuple[str, ...]:
        matching = self._matching
        known = matching.get(type_)
        if known is None:
            known = tuple(name for name in list(self._patterns) if _may_match_type(name, type_))
            if len(matching) > _CACHE:
                matching.clear()
            matching[type_] = known
        return known


def _compiled(topic: str) -> re.Pattern[str]:
    """What matches `type:id` (with the colon also where the id is empty)."""
    type_, colon, id_ = topic.partition(":")
    text = _any(type_, "[^:]*") + (":" + _any(id_, ".*") if colon else ":.*")
    return re.compile(text if topic.startswith("__") else f"(?!__){text}", re.DOTALL)


def _any(text: str, star: str) -> str:
    # Between two stars the first place where the text fits is as good as any: atomic, so that no topic, which may come from
    # another machine, makes the search go back again and again.
    first, *parts = map(re.escape, text.split("*"))
    if not parts:
        return first
    return first + "".join(f"(?>{star}?{part})" for part in parts[:-1]) + star + parts[-1]


def _may_match_type(topic: str, type_: str) -> bool:
    if type_.startswith("__") and not topic.startswith("__"):
        return False
    return re.fullmatch(_any(topic.partition(":")[0], "[^:]*"), type_, re.DOTALL) is not None
