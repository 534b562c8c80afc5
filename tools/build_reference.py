#!/usr/bin/env python3
"""Build the API reference from the docstrings, by pdoc.

    python tools/build_reference.py [directory]

Warnings are errors, and so is a public name that has no docstring: what `__all__` of a public module gives.
"""

import importlib
import inspect
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

PARTS = [
    "signals",
    "events",
    "events.operators",
    "capture",
    "schemas",
    "schemas.contract",
    "schemas.compiled",
    "storage",
    "storage.migrations",
    "operations",
    "hub",
]
EDGES = ["contrib", "servers"]  # all their modules are public: each is imported by its own name


def public_modules() -> list[str]:
    """The modules that users import from."""
    found = ["peewee_honker", *(f"peewee_honker.{part}" for part in PARTS)]
    for edge in EDGES:
        package = importlib.import_module(f"peewee_honker.{edge}")
        found += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return [*found, "peewee_honker.testing"]


def undocumented(module_name: str) -> list[str]:
    """The public classes and functions of a module that say nothing of themselves."""
    module = importlib.import_module(module_name)
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        if (inspect.isclass(value) or inspect.isroutine(value)) and not inspect.getdoc(value):
            missing.append(f"{module_name}.{name}")
    return missing


def main(directory: str = "build/reference") -> None:
    warnings.simplefilter("error")
    # Peewee's classes are generic in its stubs alone.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .* is not subscriptable$")
    # What is inherited from other packages may name types that they import for type checkers alone.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .* for (?!peewee_honker\.)")
    modules = public_modules()
    if missing := [name for module in modules for name in undocumented(module)]:
        sys.exit(f"no docstring: {', '.join(missing)}")
    pdoc.render.configure(docformat="google", footer_text="peewee_honker")
    pdoc.pdoc(*modules, output_directory=Path(directory))
    print(f"{len(modules)} modules: {directory}/index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
