"""Patterns of topics: what they match, and that none of them takes long."""

import re

from hypothesis import given
from hypothesis import strategies as st

from peewee_honker.events.topic import Topics

texts = st.text("ab*", min_size=1, max_size=8)


def plainly(topic, type_, id_):
    """What a topic says, by a regular expression that may go back."""
    head, colon, tail = topic.partition(":")
    pattern = re.escape(head).replace(r"\*", "[^:]*") + (":" + re.escape(tail).replace(r"\*", ".*") if colon else ":.*")
    return re.fullmatch(pattern, f"{type_}:{id_}", re.DOTALL) is not None


@given(texts, st.none() | st.text("ab*", max_size=8), st.text("ab", min_size=1, max_size=8), st.text("ab:", max_size=8))
def test_a_pattern_matches_what_it_says(head, tail, type_, id_):
    topics = Topics()
    topic = head if tail is None else f"{head}:{tail}"
    topics.add(topic, "listener")
    assert topics.match(type_, id_) == (("listener",) if plainly(topic, type_, id_) else ())


def test_a_pattern_with_many_stars_is_answered_at_once():
    """It would take longer than the universe lasts if each star could go back."""
    topics = Topics()
    topics.add("*a" * 50 + "b", "type")
    topics.add("x:" + "*a" * 50 + "b", "id")
    assert topics.match("a" * 5000, "") == ()
    assert topics.match("x", "a" * 5000) == ()
    assert topics.match("x", "a" * 5000 + "b") == ("id",)
