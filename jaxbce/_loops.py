"""Which of two equal programs XLA on CPU runs faster, as a function of sizes alone.

What is said here was measured on two cores with jaxlib 0.10.2, by `benchmarks/speed.py`. Other devices run either
program at the same speed. A size may be a symbol, while a function is exported: of it nothing is known.
"""

from typing import Final

_LARGE: Final = 2**21
"""Entries of an array that is written to fresh pages of memory, and not to a cache."""
_LONG: Final = 128
"""Entries in a row that a reduction takes at full speed."""
_FEW: Final = 24
"""Classes that are faster one by one than together."""
_SHARES: Final = 16
"""Cores that a loop is shared out to, at the most. XLA makes vector instructions of it where the shares are even; where
they are not, a logarithm takes ten times as long."""


def in_one_loop(size: int, row: int) -> bool:
    """Whether entries had better be computed in the loop that reduces each `row` of them into one, and stored nowhere.

    That loop goes over a tile once for every operation, and takes up to twice as long as one of machine code for just
    these operations, which has to store what it computes.
    """
    if not (isinstance(size, int) and isinstance(row, int)):
        return True
    return row >= _LONG and (size >= _LARGE or not _even(size))


def class_by_class(classes: int, entries: int) -> bool:
    """Whether classes had better be taken one by one, so that all of an entry is in registers.

    The loop that reduces over an axis is slow over a short one, at a half to a quarter of the speed.
    """
    return isinstance(classes, int) and isinstance(entries, int) and classes <= _FEW and _even(entries)


def _even(size: int) -> bool:
    return size % _SHARES == 0
