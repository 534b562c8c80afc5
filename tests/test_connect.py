"""A URL names an event target, so that where events go is a matter of configuration."""

import os

import pytest

from peewee_honker import Event, connect
from peewee_honker.events import HonkerEventTarget
from tests.support import outside


def test_a_files_url_is_relative_with_three_slashes_and_absolute_with_four(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connect("honker:///my%20shop.db", "durable", stream="orders", consumer="billing") as target:
        assert isinstance(target, HonkerEventTarget)
        heard = []
        target.add_listener("order.*", heard.append)
        with connect(f"honker:////{tmp_path}/my shop.db", "durable", stream="orders") as other:
            other.dispatch(Event("order.saved", "1"))
        outside.until(lambda: heard)
        assert os.path.exists(tmp_path / "my shop.db")
        target.database.close_engine()


def test_a_target_on_a_file_can_be_given_a_path(path):
    with HonkerEventTarget(path) as target:
        target.dispatch(Event("order.saved", "1"))
        assert target.database.database == path
    assert target.database.is_closed()
    target.database.close_engine()


@pytest.mark.services
@pytest.mark.parametrize("engine", ["redis", "nats", "postgres"])
def test_a_servers_url_gives_a_target_that_hears_what_another_sends(engine, request):
    url = request.getfixturevalue(f"{engine}_url")
    with connect(url, "durable", stream="orders", consumer="billing") as target:
        heard = []
        target.add_listener("order.*", heard.append)
        with connect(url, "durable", stream="orders") as other:
            other.dispatch(Event("order.saved", "1", {"total": "9.50"}))
        outside.until(lambda: heard)
        assert [(event.topic, event.payload) for event in heard] == [("order.saved:1", {"total": "9.50"})]


@pytest.mark.parametrize("url", ["", "shop.db", "mysql://localhost/x", "honker://shop.db", "honker:///", "honker:///a?b=c"])
def test_what_names_no_target_is_refused(url):
    with pytest.raises(ValueError, match="URL"):
        connect(url)


def test_nothing_of_a_password_is_in_the_error():
    with pytest.raises(ValueError, match="begins with") as caught:
        connect("amqp://user:secret@localhost")
    assert "secret" not in str(caught.value)
