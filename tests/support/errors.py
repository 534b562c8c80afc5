"""Errors of receivers that are hard to write down."""

import pytest


class UntoldError(Exception):
    """An error that fails itself when it is to say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("not even that")

    __str__ = __repr__


HARD_TO_WRITE = [
    pytest.param(ValueError("half a pair: \ud800, and a NUL: \0"), id="half a pair"),
    pytest.param(UntoldError(), id="untold"),
]
