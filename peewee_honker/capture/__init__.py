"""Change capture: every committed change of a table becomes an event, whoever wrote it.

capture = Capture(Order, old_values=True)
capture.install(db)

SQL triggers write Honker's own tables in the transaction of the change, so that the sqlite3 shell's changes and another
language's are heard like those of `save()`.
"""

from peewee_honker.capture.capture import Capture
from peewee_honker.capture.installed import Installed, installed_captures, uninstall
from peewee_honker.capture.migration import create_tables, kept, suspended
from peewee_honker.capture.transaction import transaction

__all__ = ["Capture", "Installed", "create_tables", "installed_captures", "kept", "suspended", "transaction", "uninstall"]
