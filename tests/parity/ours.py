"""What jaxbce answers to a case."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbce

from .cases import Case

FUNCTIONS = {"logits": jaxbce.binary_cross_entropy_with_logits, "probs": jaxbce.binary_cross_entropy}


@contextlib.contextmanager
def precision(dtype: np.dtype) -> Iterator[None]:
    """float64 switched on for a float64 case; spelt as every supported version of JAX spells it."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == np.float64)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@functools.cache
def evaluate(case: Case) -> dict[str, np.ndarray]:
    """The loss, its gradient with respect to every argument that has one, and two second derivatives.

    The second derivatives are those of Σ ∂/∂predictions with respect to predictions and labels.
    """
    derivatives = _derivatives(case.function, case.reduction == "none", tuple(case.options.items()))
    with precision(case.dtype):
        arguments = jax.tree.map(jnp.asarray, (case.predictions, case.labels, case.weights, case.where, case.cotangent))
        second, (loss, first) = derivatives(*arguments)
        by_predictions, by_labels, by_weights = first
        answers = {"loss": loss, "d_predictions": by_predictions, "d_labels": by_labels}
        answers |= {f"d_{name}": gradient for name, gradient in by_weights.items()}
        answers |= dict(zip(("d2_predictions", "d2_predictions_labels"), second, strict=False))
        return jax.tree.map(np.asarray, answers)


@functools.cache
def _derivatives(function: str, twice: bool, options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """One compiled function for all cases of the same options."""

    def objective(predictions, labels, weights, where, cotangent):
        loss = FUNCTIONS[function](predictions, labels, **weights, where=where, **dict(options))
        return jnp.sum(cotangent * loss), loss

    def slope(*arguments):
        (_, loss), first = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return jnp.sum(first[0], dtype=loss.dtype), (loss, first)

    if twice:
        return jax.jit(jax.grad(slope, argnums=(0, 1), has_aux=True))
    return jax.jit(lambda *arguments: ((), slope(*arguments)[1]))
