"""Which of two equal programs XLA on CPU runs faster, as a function of sizes alone.

The figures are of two cores and jaxlib 0.10.2; no other device was measured. A size may be a symbol, while a function
is exported: of it nothing is known.
"""

from typing import Final

_LARGE: Final = 2**21
"""Entries from which on storing the losses takes longer than to compute them in the loop of the reduction."""
_SMALL: Final = range(2**12, 2**14 + 1)
"""Entries so few that waking the threads of a second loop takes longer than the losses do: one loop takes 0.7 to 0.9 of
the time. Below that XLA never joins the two loops."""
_LONG: Final = 128
"""Entries of a row from which on that loop is not held up by the ends of rows: over rows of ten it takes 2 to 4 times
as long, over rows of a thousand it is the faster."""
_FEW: Final = 24
"""Classes that are faster one by one than together: ten in a third of the time, sixty-four in the same."""
_SHARES: Final = 16
"""What a size should be a multiple of. On two cores a loop of odd size takes 2 to 10 times as long; on one core it
does not, so the reason is how XLA shares it out. Sixteen allows for more cores."""


def in_one_loop(size: int, row: int) -> bool:
    """Whether entries should be computed in the loop that reduces each `row` of them into one, and stored nowhere.

    At a million entries a loop of its own, which has to store what it computes, takes 0.6 of the time, at ten million
    1.6 times as long.
    """
    if not (isinstance(size, int) and isinstance(row, int)):
        return True
    return row >= _LONG and (size >= _LARGE or size in _SMALL or not shared_out(size))


def class_by_class(classes: int, entries: int) -> bool:
    """Whether classes should be taken one by one, with no loop over them."""
    return isinstance(classes, int) and isinstance(entries, int) and classes <= _FEW and shared_out(entries)


def shared_out(size: int) -> bool:
    """Whether a loop over so many entries is shared out to the cores in the fast way; a symbol is taken for yes."""
    return not isinstance(size, int) or size % _SHARES == 0
