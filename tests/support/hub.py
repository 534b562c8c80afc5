"""Hubs for tests: keys of two tenants, certificates, raw WebSockets, and hubs in processes of their own."""

import datetime
import ipaddress
import json
import ssl
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import connect

from peewee_honker import Event
from peewee_honker.hub import WebSocketClientTarget
from peewee_honker.storage import Account, ApiKeys, Organization, OrgMember, create_system_database, system_database
from tests.support import outside

ALL_SCOPES = ("events:read", "events:write", "operations:serve")


class Keys:
    """A system database with two organizations, `acme` and `globex`, and keys of accounts in them."""

    def __init__(self, path: str) -> None:
        self.database = create_system_database(path)
        self.api_keys = ApiKeys(self.database)
        self._count = 0
        self.organizations: dict[str, Any] = {}
        with system_database.use(self.database):
            self.owner = Account.create(email="owner@example.org", name="Owner")
            for name in ("acme", "globex"):
                self.organizations[name] = Organization.create(name=name, slug=name, owner=self.owner)

    def account(self, *organizations: str, **more: Any) -> Any:
        """An account that is a member of organizations."""
        self._count += 1
        with system_database.use(self.database):
            made = Account.create(email=f"{self._count}@example.org", name=f"account {self._count}", **more)
            for name in organizations:
                OrgMember.create(org=self.organizations[name], account=made)
        return made

    def new(self, *organizations: str, scopes: tuple[str, ...] = ALL_SCOPES, **more: Any) -> Any:
        """A new key of a new account in organizations: its row and text."""
        return self.api_keys.create(self.account(*organizations), "test", scopes=scopes, actor=self.owner, **more)

    def key(self, *organizations: str, scopes: tuple[str, ...] = ALL_SCOPES) -> str:
        """The text of such a key."""
        text: str = self.new(*organizations, scopes=scopes).text
        return text

    def tenant(self, name: str) -> str:
        """The id of an organization."""
        return str(self.organizations[name].id)

    def close(self) -> None:
        self.database.close_engine()


@contextmanager
def client(url: str, **options: Any) -> Any:
    """A client that is connected."""
    with WebSocketClientTarget(url, **options) as made:
        made.wait_connected(outside.DEADLINE)
        yield made


class Raw:
    """A WebSocket by which anything can be sent."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._kept: list[dict[str, Any]] = []
        self._opening = connect(url, additional_headers=headers, proxy=None, compression=None, **options)

    def __enter__(self) -> "Raw":
        self.socket = self._opening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._opening.__exit__(None, None, None)

    def say(self, type_: str, payload: Any = None, **more: Any) -> str:
        """Send an envelope; gives its event_id."""
        event = Event(type_, payload=payload, **more)
        self.socket.send(event.to_json())
        return event.event_id

    def hear(self, *types: str) -> dict[str, Any]:
        """The next message of one of the types."""
        for message in self._kept:
            if message["type"] in types:
                self._kept.remove(message)
                return message
        while True:
            message = json.loads(self.socket.recv(outside.DEADLINE))
            if message["type"] in types:
                return message
            self._kept.append(message)

    def ask(self, type_: str, payload: Any = None, **more: Any) -> dict[str, Any]:
        """The answer to a request."""
        event_id = self.say(type_, payload, **more)
        while True:
            answer = self.hear("__ack", "__error")
            if answer["id"] == event_id:
                return answer


def certificate(folder: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a self-signed certificate for 127.0.0.1, and the context of a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    return server, trusting


SERVER = """
    import signal, sys, threading
    from peewee_honker import HonkerDatabase
    from peewee_honker.hub import WebSocketServerTarget, anyone
    db = HonkerDatabase(sys.argv[1], timeout=20)
    with WebSocketServerTarget(db, port=int(sys.argv[2]), authenticate=anyone, heartbeat=float(sys.argv[3])) as server:
        print(server.port)
        sys.stdin.readline()
    db.close_engine()
    print([thread.name for thread in threading.enumerate()])
"""
"""A server of everybody; arguments: the file, the port, the heartbeat."""
