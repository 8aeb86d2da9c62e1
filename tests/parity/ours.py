"""What jaxbce answers. float64 must be on, as it is in the whole suite."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbce
from tests.parity.cases import Case

FUNCTIONS = {
    "logits": jaxbce.binary_cross_entropy_with_logits,
    "probs": jaxbce.binary_cross_entropy,
    "sigmoid": lambda logits, labels, **options: jaxbce.binary_cross_entropy(jax.nn.sigmoid(logits), labels, **options),
}


@functools.cache
def evaluate(case: Case) -> dict[str, np.ndarray]:
    """The loss, its gradient with respect to every argument that has one, and two second derivatives.

    The second derivatives are those of Σ ∂/∂predictions with respect to predictions and labels.
    """
    derivatives = _derivatives(case.function, case.reduction == "none", tuple(case.options.items()))
    arguments = jax.tree.map(jnp.asarray, (case.predictions, case.labels, case.weights, case.where, case.cotangent))
    second, (loss, first) = derivatives(*arguments)
    by_predictions, by_labels, by_weights = first
    answers = {"loss": loss, "d_predictions": by_predictions, "d_labels": by_labels}
    answers |= {f"d_{name}": gradient for name, gradient in by_weights.items()}
    answers |= dict(zip(("d2_predictions", "d2_predictions_labels"), second, strict=False))
    return {name: np.asarray(value) for name, value in answers.items()}


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


def answer(function: str, arguments: dict[str, Any], quantity: str) -> Any:
    """One quantity of one call, named as in `differences`; raises where jaxbce refuses."""
    order, _, argument = quantity.partition("_")

    def losses(arguments):
        options = {name: value for name, value in arguments.items() if name not in ("predictions", "labels")}
        return FUNCTIONS[function](arguments["predictions"], arguments["labels"], **options, reduction="none")

    def slope(value):
        return jax.grad(lambda value: jnp.sum(losses(arguments | {argument: value})))(value)

    if order == "d":
        return np.asarray(slope(arguments[argument]))
    if order == "d2":
        return np.asarray(jax.grad(lambda value: jnp.sum(slope(value)))(arguments[argument]))
    loss = losses(arguments)
    return loss.dtype.name if quantity == "dtype" else np.asarray(loss)
