"""The values that each argument may hold, under its public name. Every domain begins at 0."""

from typing import NamedTuple

import numpy as np


class Domain(NamedTuple):
    """The finite numbers of [0, high], the rule in words, and what to do about a value outside it.

    An `optional` parameter of a binary loss may be None.
    """

    high: float
    rule: str
    remedy: str
    optional: bool = False


def _unit(remedy: str, *, optional: bool = False) -> Domain:
    return Domain(1.0, "lie in [0, 1]", remedy, optional)


def _weight(remedy: str, *, optional: bool = False) -> Domain:
    return Domain(np.inf, "be finite and not negative", remedy, optional)


_EXPONENT = _weight("0 leaves the cross-entropy as it is; more counts easy examples less.")

DOMAINS = {
    "probs": _unit("Unnormalised scores belong in the function that takes logits."),
    "labels": _unit("Hide missing labels with `where`; one-hot encode class indices."),
    "label_smoothing": _unit("0 keeps the labels, 1 makes them all the same."),
    "weight": _weight("At a weight of 0 an entry costs nothing, and under 'weighted_mean' it does not count."),
    "pos_weight": _weight("The number of negatives per positive is the usual choice.", optional=True),
    "class_weight": _weight("To leave a class out, give it a weight of 0."),
    "counts": _weight("Count the examples of each class, e.g. with jnp.bincount."),
    "max_weight": _weight("None leaves the weights as they are."),
    "gamma": _EXPONENT,
    "gamma_pos": _EXPONENT,
    "gamma_neg": _EXPONENT,
    "alpha": _unit("It is the weight of label 1, and 1 - alpha that of label 0; None weighs neither.", optional=True),
    "margin": _unit("It is taken off the probability of the negatives; 0 takes nothing off."),
    "beta": _unit("0 weighs all classes alike, 1 by inverse frequency; 0.9 to 0.9999 are usual."),
}
