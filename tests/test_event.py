"""What an event promises wherever it travels: the same fields at the other end, and nobody can change it on the way."""

import copy
import dataclasses
import json
import pickle
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peewee_honker import Event
from peewee_honker.events.event import new_event_id

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    Event,
    texts,
    texts,
    values,
    event_id=texts,
    time=st.floats(allow_nan=False, allow_infinity=False),
    origin=texts,
    operation=texts,
    changes=st.none() | st.dictionaries(texts, values, max_size=3),
    transaction=texts,
    headers=st.none() | st.dictionaries(texts, texts, min_size=1, max_size=3),
)
offsets = st.none() | st.integers(0, 2**63 - 1)


@given(events, offsets)
def test_an_event_comes_out_of_json_as_it_went_in(event, offset):
    assert Event.from_json(event.to_json(), "channel", offset) == dataclasses.replace(event, offset=offset)


@given(events, st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["", " ", "\r\n"]))
def test_space_bytes_and_the_order_of_fields_make_no_difference(event, before, after):
    text = event.to_json()
    turned = json.dumps(dict(reversed(json.loads(text).items())), indent=1)
    for form in (before + text + after, (before + text + after).encode(), turned):
        assert Event.from_json(form, "channel", 1) == Event.from_json(text, "channel", 1)


@given(st.text(max_size=30) | values.map(json.dumps))
def test_what_is_no_event_is_the_payload_of_one(text):
    event = Event.from_json(text, "channel", 7)
    try:
        payload = json.loads(text)
    except ValueError:
        payload = text
    assert (event.type, event.id, event.offset) == ("channel", "", 7)
    assert event.payload == payload


def test_fields_of_others_are_no_fields_of_the_event():
    told = json.loads(Event("order.saved", "1", {"total": 5}).to_json())
    event = Event.from_json(json.dumps({**told, "offset": 99, "topic": "other", "unknown": 1}), "channel", 3)
    assert (event.offset, event.topic) == (3, "order.saved:1")
    assert not hasattr(event, "unknown")
    assert {field.name for field in dataclasses.fields(event)} == set(dataclasses.asdict(event))


@pytest.mark.parametrize("event", [Event("order.saved", "1"), Event.from_json(Event("order.saved", "1").to_json(), "")])
def test_an_event_cannot_be_changed(event):
    for name in ("payload", "offset", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, name, 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del event.payload


@given(events, offsets)
def test_copies_are_equal(event, offset):
    event = Event.from_json(event.to_json(), "", offset)
    pickled = pickle.loads(pickle.dumps(event))  # noqa: S301  (of this very line)
    for other in (copy.copy(event), copy.deepcopy(event), pickled, dataclasses.replace(event)):
        assert other == event
        assert repr(other) == repr(event)
    assert event != dataclasses.replace(event, id=event.id + "x")


def test_event_ids_are_uuids_that_sort_as_they_were_made():
    before = time.time_ns() // 1_000_000
    ids = [uuid.UUID(new_event_id()) for _ in range(20_000)]
    after = time.time_ns() // 1_000_000
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in ids)
    assert ids == sorted(set(ids))
    assert before <= ids[0].int >> 80 <= after


def test_event_ids_of_many_threads_are_different():
    found: list[list[str]] = [[] for _ in range(4)]

    def make(mine):
        mine.extend(new_event_id() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in found)
    assert len({each for mine in found for each in mine}) == 20_000
