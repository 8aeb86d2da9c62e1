"""What jaxbce answers. float64 must be on, as it is in the whole suite."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbce
from tests.parity.cases import SECOND, Case

FUNCTIONS = {
    "logits": jaxbce.binary_cross_entropy_with_logits,
    "probs": jaxbce.binary_cross_entropy,
    "sigmoid": lambda logits, labels, **options: jaxbce.binary_cross_entropy(jax.nn.sigmoid(logits), labels, **options),
    "classes": jaxbce.cross_entropy,
}


@functools.cache
def evaluate(case: Case) -> dict[str, np.ndarray]:
    """The loss, its gradient with respect to every argument that has one, and two second derivatives.

    The second derivatives are those of Σ direction·∂/∂predictions with respect to predictions and labels.
    """
    derivatives = _derivatives(case.function, case.reduction == "none", tuple(case.options.items()))
    arguments = (case.data, case.weights, case.constants, case.cotangent, case.direction)
    second, (loss, by_data, by_weights) = derivatives(*jax.tree.map(jnp.asarray, arguments))
    answers = {"loss": loss} | {f"d_{name}": gradient for name, gradient in (by_data | by_weights).items()}
    answers |= {SECOND[name]: gradient for name, gradient in second.items()}
    return {name: np.asarray(value) for name, value in answers.items()}


@functools.cache
def _derivatives(function: str, twice: bool, options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """One compiled function for all cases of the same options."""

    def objective(data, weights, constants, cotangent):
        loss = call(function, data | weights | constants | dict(options))
        return jnp.sum(cotangent * loss), loss

    def slope(data, weights, constants, cotangent, direction):
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (_, loss), (by_data, by_weights) = gradient(data, weights, constants, cotangent)
        along = jnp.sum(direction * by_data["predictions"].astype(direction.dtype))
        return along, (loss, by_data, by_weights)

    if twice:
        return jax.jit(jax.grad(slope, has_aux=True))
    return jax.jit(lambda *arguments: ({}, slope(*arguments)[1]))


def call(function: str, arguments: dict[str, Any]) -> jax.Array:
    """The function of arguments by the names that `cases` gives them."""
    options = {name: value for name, value in arguments.items() if name not in ("predictions", "labels")}
    return FUNCTIONS[function](arguments["predictions"], arguments["labels"], **options)


def answer(function: str, arguments: dict[str, Any], quantity: str) -> Any:
    """One quantity of one call, named as in `differences`; raises where jaxbce refuses."""
    order, _, argument = quantity.partition("_")

    def total(value):
        return jnp.sum(call(function, {"reduction": "none"} | arguments | {argument: value}))

    if order == "d":
        return np.asarray(jax.jit(jax.grad(total))(arguments[argument]))
    if order == "d2":
        value = arguments[argument]
        return np.diagonal(jax.jit(jax.hessian(total))(value).reshape(value.size, value.size))
    loss = call(function, {"reduction": "none"} | arguments)
    return loss.dtype.name if quantity == "dtype" else np.asarray(loss)
