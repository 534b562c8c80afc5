"""The operators' command, `peewee-honker`: what is in a database file of Honker's, live and at rest.

One module for each group of commands; this is the one part of the package that writes to the screen.
"""

from peewee_honker.cli.main import main

__all__ = ["main"]
