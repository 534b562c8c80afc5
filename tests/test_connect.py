"""A URL names an event target, so that where events go is a matter of configuration."""

import os

import pytest

from peewee_honker import Event, connect
from peewee_honker.cli.relay import _without_secrets
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


@pytest.mark.parametrize("password", ["sec/ret", "sec#ret", "sec?ret"])
def test_nothing_of_a_password_that_is_badly_written_is_in_an_error_either(password):
    pytest.importorskip("redis", reason="redis-py is not installed: the extra `redis`")
    with pytest.raises(ValueError, match="no URL of Redis") as caught:
        connect(f"redis://ada:{password}@127.0.0.1:1")
    assert "sec" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("password", ["se%cret", "sec ret"])
def test_nothing_of_a_password_that_postgresql_cannot_read_is_in_an_error(password):
    pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")
    with pytest.raises(ValueError, match="no URL of PostgreSQL") as caught:
        connect(f"postgresql://ada:{password}@127.0.0.1:1/shop")
    assert "ret@" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("user", ["ada:sec/ret@", "ada:sec#ret@", "sec?ret@", ""])
def test_where_nats_is_does_not_tell_who_asks(user):
    pytest.importorskip("nats", reason="nats-py is not installed: the extra `nats`")
    with connect(f"nats://{user}127.0.0.1:1, {user}other:2/") as target:
        assert repr(target.store.link) == "NATS at 127.0.0.1:1, other:2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ada:secret@host:6379/0", "redis://host:6379/0"),
        ("redis://host/0?password=secret", "redis://host/0"),
        ("postgresql://host/shop?user=ada&password=secret", "postgresql://host/shop"),
        ("nats://ada:secret@one:4222,nats://ada:secret@other:4222", "nats://one:4222,other:4222"),
        ("nats://secret@host", "nats://host"),
        ("honker:////var/lib/a@b,c.db", "honker:////var/lib/a@b,c.db"),
    ],
)
def test_the_relay_command_shows_no_secrets_of_its_url(url, shown):
    assert _without_secrets(url) == shown
