"""What PyTorch answers: by its own functions where they have the option, else composed of them.

Only this module, `record` and `test_live` need PyTorch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.parity.cases import Case

FUNCTIONS = {
    "logits": functional.binary_cross_entropy_with_logits,
    "probs": functional.binary_cross_entropy,
    "sigmoid": lambda logits, labels, **options: functional.binary_cross_entropy(
        torch.sigmoid(logits), labels, **options
    ),
}


def evaluate(case: Case) -> dict[str, np.ndarray]:
    """The same quantities as `ours.evaluate`. Predictions of 16 bits are computed on in float32."""
    predictions = _leaf(case.predictions.astype(case.dtype))
    labels = _leaf(case.labels)
    cotangent = torch.from_numpy(case.cotangent)

    constants = {name: torch.from_numpy(value) for name, value in case.weights.items()}
    loss = _loss(case, predictions, labels, constants, _native(case))
    first = _grad((cotangent * loss).sum(), [predictions, labels], create_graph=True)
    second = _grad(first[0].sum(), [predictions, labels]) if case.reduction == "none" else []

    # PyTorch refuses to differentiate with respect to a weight; the loss is linear in it, so composing is exact.
    leaves = {name: _leaf(value) for name, value in case.weights.items()}
    composed = _loss(case, predictions, labels, leaves, _composed(case))
    by_weights = _grad((cotangent * composed).sum(), list(leaves.values())) if leaves else []

    answers = dict(zip(case.quantities, [loss, *first, *by_weights, *second], strict=True))
    return {name: answer.detach().numpy() for name, answer in answers.items()}


Losses = Callable[[Tensor, Tensor, dict[str, Tensor], str], Tensor]


def _native(case: Case) -> Losses:
    """The function itself, with its own weights and reductions; it has no `pos_weight` of probabilities."""
    if case.function == "probs" and case.pos_weight is not None:
        return _composed(case)

    def losses(predictions: Tensor, labels: Tensor, weights: dict[str, Tensor], reduction: str) -> Tensor:
        return FUNCTIONS[case.function](predictions, labels, **weights, reduction=reduction)

    return losses


def _composed(case: Case) -> Losses:
    """-[w·y·log p + (1 - y)·log(1 - p)] of the function's own losses for labels 1 and 0."""
    function = FUNCTIONS[case.function]

    def losses(predictions: Tensor, labels: Tensor, weights: dict[str, Tensor], reduction: str) -> Tensor:
        positive = function(predictions, torch.ones_like(predictions), reduction="none")
        negative = function(predictions, torch.zeros_like(predictions), reduction="none")
        loss = weights.get("weight", 1.0) * (
            weights.get("pos_weight", 1.0) * labels * positive + (1 - labels) * negative
        )
        return loss if reduction == "none" else getattr(loss, reduction)()

    return losses


def _loss(case: Case, predictions: Tensor, labels: Tensor, weights: dict[str, Tensor], losses: Losses) -> Tensor:
    shape = predictions.shape
    labels = labels.expand(shape)
    if case.label_smoothing:
        labels = labels * (1 - case.label_smoothing) + case.label_smoothing / 2

    if case.where is None and case.axis is None and case.reduction != "weighted_mean":
        return losses(predictions, labels, weights, case.reduction)

    # A mask is the call on the subset that it leaves.
    mask = torch.ones(shape, dtype=torch.bool)
    if case.where is not None:
        mask = torch.from_numpy(case.where).expand(shape)
        weights = {name: value.expand(shape)[mask] for name, value in weights.items()}
        predictions, labels = predictions[mask], labels[mask]
        if case.axis is None and case.reduction in ("mean", "sum"):
            return losses(predictions, labels, weights, case.reduction)

    values = losses(predictions, labels, weights, "none")
    values = torch.zeros(shape, dtype=values.dtype).masked_scatter(mask, values)
    if case.reduction == "none":
        return values
    axes = tuple(range(len(shape))) if case.axis is None else case.axis
    total = values.sum(axes)
    if case.reduction == "sum":
        return total
    count = mask.to(values.dtype)
    if case.reduction == "weighted_mean" and "weight" in weights:
        weight = weights["weight"] if case.where is not None else weights["weight"].expand(shape)
        count = torch.zeros_like(count).masked_scatter(mask, weight)
    return total / count.sum(axes)


def answer(function: str, arguments: dict[str, Any], quantity: str) -> Any:
    """One quantity of one call, named as in `differences`; raises where PyTorch refuses."""
    arguments = {name: _tensor(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    order, _, argument = quantity.partition("_")
    if order in ("d", "d2"):
        arguments[argument].requires_grad_()
    options = {name: value for name, value in arguments.items() if name not in ("predictions", "labels")}
    loss = FUNCTIONS[function](arguments["predictions"], arguments["labels"], **options, reduction="none")
    if order == "d":
        return _grad(loss.sum(), [arguments[argument]])[0].numpy()
    if order == "d2":
        slope = _grad(loss.sum(), [arguments[argument]], create_graph=True)[0]
        return _grad(slope.sum(), [arguments[argument]])[0].numpy()
    if quantity == "dtype":
        return str(loss.dtype).removeprefix("torch.")
    return loss.detach().numpy()


def _tensor(value: np.ndarray) -> Tensor:
    """PyTorch does not read NumPy's bfloat16."""
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(value)


def _leaf(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(value)).requires_grad_()


def _grad(value: Tensor, leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Gradients, 0 with respect to what `value` does not depend on."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(
        torch.autograd.grad(
            value, leaves, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
