"""What PyTorch answers: by its own functions where they have the option, else composed of them.

Only this module, `record` and `test_live` need PyTorch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.parity.cases import SECOND, Case


def _cross_entropy(logits: Tensor, labels: Tensor, *, class_weight: Tensor | None = None, **options: Any) -> Tensor:
    return functional.cross_entropy(logits, labels, weight=class_weight, **options)


FUNCTIONS = {
    "logits": functional.binary_cross_entropy_with_logits,
    "probs": functional.binary_cross_entropy,
    "sigmoid": lambda logits, labels, **options: functional.binary_cross_entropy(
        torch.sigmoid(logits), labels, **options
    ),
    "classes": _cross_entropy,
}


def evaluate(case: Case) -> dict[str, np.ndarray]:
    """The same quantities as `ours.evaluate`. Predictions of 16 bits are computed on in float32."""
    data = {name: _leaf(value.astype(case.dtype)) for name, value in case.data.items()}
    cotangent, direction = torch.from_numpy(case.cotangent), torch.from_numpy(case.direction)

    constants = {name: torch.from_numpy(value) for name, value in case.weights.items()}
    loss = _loss(case, data, constants, _native(case))
    first = _grad((cotangent * loss).sum(), data, create_graph=True)
    second = _grad((direction * first["predictions"]).sum(), data) if case.reduction == "none" else {}

    # PyTorch refuses to differentiate with respect to a weight; the loss is linear in it, so composing is exact.
    leaves = {name: _leaf(value) for name, value in case.weights.items()}
    first |= _grad((cotangent * _loss(case, data, leaves, _composed(case))).sum(), leaves) if leaves else {}

    answers = {"loss": loss} | {f"d_{name}": gradient for name, gradient in first.items()}
    answers |= {SECOND[name]: gradient for name, gradient in second.items()}
    return {name: answer.detach().numpy() for name, answer in answers.items()}


Losses = Callable[[Tensor, Tensor, dict[str, Tensor], str], Tensor]


def _native(case: Case) -> Losses:
    """The function itself, with its own weights and reductions; it has no `pos_weight` of probabilities."""
    if case.function == "probs" and case.pos_weight is not None:
        return _composed(case)
    options: dict[str, Any] = {}
    if case.class_axis is not None:
        options = {"label_smoothing": case.label_smoothing, "ignore_index": case.ignore_index}

    def losses(predictions: Tensor, labels: Tensor, weights: dict[str, Tensor], reduction: str) -> Tensor:
        return FUNCTIONS[case.function](predictions, labels, **weights, **options, reduction=reduction)

    return losses


def _composed(case: Case) -> Losses:
    """The function's own losses for labels that are numbers, weighted and reduced here."""
    entries = _binary_entries if case.class_axis is None else _class_entries

    def losses(predictions: Tensor, labels: Tensor, weights: dict[str, Tensor], reduction: str) -> Tensor:
        loss = entries(case, predictions, labels, weights)
        if reduction == "none":
            return loss
        return loss.sum() / (1.0 if reduction == "sum" else _counts(case, loss, labels, weights).sum())

    return losses


def _binary_entries(case: Case, predictions: Tensor, labels: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """-[w·y·log p + (1 - y)·log(1 - p)] of the losses for labels 1 and 0."""
    function = FUNCTIONS[case.function]
    positive = function(predictions, torch.ones_like(predictions), reduction="none")
    negative = function(predictions, torch.zeros_like(predictions), reduction="none")
    return weights.get("weight", 1.0) * (weights.get("pos_weight", 1.0) * labels * positive + (1 - labels) * negative)


def _class_entries(case: Case, predictions: Tensor, labels: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The losses for the probabilities that indices stand for; PyTorch does differentiate those by their weights."""
    options = {"label_smoothing": case.label_smoothing, "reduction": "none"}
    if not case.indices:
        return FUNCTIONS["classes"](predictions, labels, **weights, **options)
    dim = _class_dim(predictions)
    included, indices = _included(case, labels)
    probs = functional.one_hot(indices, predictions.shape[dim]).movedim(-1, dim).to(predictions.dtype)
    return FUNCTIONS["classes"](predictions, probs, **weights, **options).where(included, 0.0)


def _counts(case: Case, losses: Tensor, labels: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """What every entry counts in the mean."""
    if case.indices:
        included, indices = _included(case, labels)
        weight = weights["class_weight"][indices] if "class_weight" in weights else torch.ones_like(losses)
        return weight.where(included, 0.0)
    if case.reduction != "weighted_mean":
        return torch.ones_like(losses)
    if case.class_axis is None:
        return weights["weight"].expand_as(losses) if "weight" in weights else torch.ones_like(losses)
    dim = _class_dim(labels)
    return (weights.get("class_weight", 1.0) * labels.movedim(dim, -1)).sum(-1)


def _included(case: Case, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries are not ignored, and class indices that are 0 where they are."""
    included = labels != case.ignore_index
    return included, labels.where(included, 0).long()


def _loss(case: Case, data: dict[str, Tensor], weights: dict[str, Tensor], losses: Losses) -> Tensor:
    shape = case.loss_shape
    predictions, labels = data["predictions"], data["labels"] if "labels" in data else _indices(case.labels)
    if case.class_axis is None:
        labels = labels.expand(shape)
        if case.label_smoothing:
            labels = labels * (1 - case.label_smoothing) + case.label_smoothing / 2
    else:
        dim = _class_dim(predictions)
        predictions = predictions.movedim(case.class_axis, dim)
        labels = labels.expand(shape) if case.indices else labels.movedim(case.class_axis, dim)

    if case.where is None and case.axis is None and case.reduction != "weighted_mean":
        return losses(predictions, labels, weights, case.reduction)

    # A mask is the call on the subset that it leaves.
    mask = torch.ones(shape, dtype=torch.bool)
    if case.where is not None:
        mask = torch.from_numpy(case.where).expand(shape)
        weights = {
            name: value if name == "class_weight" else value.expand(shape)[mask] for name, value in weights.items()
        }
        if case.class_axis is not None:
            predictions = predictions.movedim(dim, -1)
            labels = labels if case.indices else labels.movedim(dim, -1)
        predictions, labels = predictions[mask], labels[mask]
        if case.axis is None and case.reduction in ("mean", "sum"):
            return losses(predictions, labels, weights, case.reduction)

    def scattered(values: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=values.dtype).masked_scatter(mask, values)

    values = losses(predictions, labels, weights, "none")
    if case.reduction == "none":
        return scattered(values)
    axes = tuple(range(len(shape))) if case.axis is None else case.axis
    total = scattered(values).sum(axes)
    return total if case.reduction == "sum" else total / scattered(_counts(case, values, labels, weights)).sum(axes)


def _class_dim(logits: Tensor) -> int:
    """PyTorch's axis of the classes."""
    return min(1, logits.ndim - 1)


def _indices(labels: np.ndarray) -> Tensor:
    """PyTorch takes class indices of two dtypes."""
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.astype(np.int64))


def answer(function: str, arguments: dict[str, Any], quantity: str) -> Any:
    """One quantity of one call, named as in `differences`; raises where PyTorch refuses."""
    arguments = {name: _tensor(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    order, _, argument = quantity.partition("_")

    def losses(value: Any) -> Tensor:
        options = {"reduction": "none"} | arguments | ({argument: value} if argument else {})
        return FUNCTIONS[function](options.pop("predictions"), options.pop("labels"), **options)

    if order == "d":
        leaf = arguments[argument].requires_grad_()
        return _grad(losses(leaf).sum(), {argument: leaf})[argument].numpy()
    if order == "d2":
        leaf = arguments[argument]
        hessian = torch.autograd.functional.hessian(lambda value: losses(value).sum(), leaf)
        return hessian.reshape(leaf.numel(), -1).diagonal().numpy()
    loss = losses(None)
    return str(loss.dtype).removeprefix("torch.") if quantity == "dtype" else loss.numpy()


def _tensor(value: np.ndarray) -> Tensor:
    """PyTorch does not read NumPy's bfloat16."""
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(value)


def _leaf(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(value)).requires_grad_()


def _grad(value: Tensor, leaves: dict[str, Tensor], *, create_graph: bool = False) -> dict[str, Tensor]:
    """Gradients, 0 with respect to what `value` does not depend on."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    gradients = torch.autograd.grad(
        value,
        list(leaves.values()),
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, gradients, strict=True))
