"""What an application has in a module, for the commands that need it."""

import importlib
import os
import sys
from typing import Any, TypeVar

from peewee_honker.cli.screen import CommandError

__all__ = ["imported"]

T = TypeVar("T")


def imported(reference: str, kind: type[T], option: str, example: str) -> T:
    """The object that `module:name` says, imported as `python -m` would, from the current directory too.

    Arguments:
        option, example: are named to who has written it wrongly.

    Raises CommandError for what is no reference, cannot be imported, or is of another kind.
    """
    module_name, colon, name = reference.partition(":")
    if not (module_name and colon and name) or module_name.startswith("."):
        raise CommandError(f"{option} is MODULE:NAME, for instance {example}, not {reference!r}", 2)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"{reference} cannot be imported: {error}") from error
    if not isinstance(found, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise CommandError(f"{reference} is a {type(found).__name__}, not {article} {kind.__name__}")
    return found
