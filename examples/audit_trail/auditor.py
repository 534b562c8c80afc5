"""Writes the trail. Its rows and its place in the stream commit together: exactly once, whatever happens to it."""

import datetime
from typing import Any

from models import Account, Audit, accounts, bus

from peewee_honker.signals import in_transaction


@accounts.saved.connect
@accounts.deleted.connect
@in_transaction
def write(_sender: type[Account], event: Any) -> None:
    Audit.create(
        event_id=event.event_id,
        time=datetime.datetime.fromtimestamp(event.time, datetime.UTC),
        table="account",
        operation=event.operation,
        key=event.id,
        changes=event.changes or event.payload,
        origin=event.origin,
    )


bus.run()  # until Ctrl-C or SIGTERM
