"""Applying functions one after the other, so that a type checker follows."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

__all__ = ["pipe"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")


@overload
def pipe(source: A, /) -> A: ...
@overload
def pipe(source: A, a: Callable[[A], B], /) -> B: ...
@overload
def pipe(source: A, a: Callable[[A], B], b: Callable[[B], C], /) -> C: ...
@overload
def pipe(source: A, a: Callable[[A], B], b: Callable[[B], C], c: Callable[[C], D], /) -> D: ...
@overload
def pipe(source: A, a: Callable[[A], B], b: Callable[[B], C], c: Callable[[C], D], d: Callable[[D], E], /) -> E: ...
@overload
def pipe(
    source: A,
    a: Callable[[A], B],
    b: Callable[[B], C],
    c: Callable[[C], D],
    d: Callable[[D], E],
    e: Callable[[E], F],
    /,
) -> F: ...
@overload
def pipe(
    source: A,
    a: Callable[[A], B],
    b: Callable[[B], C],
    c: Callable[[C], D],
    d: Callable[[D], E],
    e: Callable[[E], F],
    f: Callable[[F], G],
    /,
) -> G: ...
@overload
def pipe(
    source: A,
    a: Callable[[A], B],
    b: Callable[[B], C],
    c: Callable[[C], D],
    d: Callable[[D], E],
    e: Callable[[E], F],
    f: Callable[[F], G],
    g: Callable[[G], Any],
    /,
    *more: Callable[[Any], Any],
) -> Any: ...
def pipe(source: Any, /, *operators: Callable[[Any], Any]) -> Any:
    """Apply operators to a source, from left to right: `pipe(s, f, g)` is `g(f(s))`.

    Gives what the last operator gives: a `Flow`, or a coroutine after `reduce` and `to_list`.
    """
    for operator in operators:
        source = operator(source)
    return source
