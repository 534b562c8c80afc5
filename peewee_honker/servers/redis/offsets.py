"""Offsets of events, made of the ids of a stream's entries.

An id is milliseconds of the server's clock and a number within them; the offset has both in 63 bits, so that it fits
wherever offsets of other databases do. Offsets therefore grow, and have holes.
"""

__all__ = ["BITS", "id_of", "offset_of"]

BITS = 20
_MASK = (1 << BITS) - 1


def offset_of(id_: bytes) -> int:
    """The offset of an id."""
    milliseconds, _, number = id_.partition(b"-")
    return (int(milliseconds) << BITS) + int(number or 0)


def id_of(offset: int) -> str:
    """The id of an offset."""
    return f"{offset >> BITS}-{offset & _MASK}"
