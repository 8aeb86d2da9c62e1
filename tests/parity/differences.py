"""Where jaxbce differs from PyTorch on purpose: a table, each row with both answers and the reason.

`test_recorded` holds jaxbce to its column without PyTorch, and `test_live` holds PyTorch to its own, so that a change
on either side shows.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Refusal(NamedTuple):
    """An exception, and a pattern that its message matches."""

    error: type[Exception]
    message: str


Answer = list[float] | str | Refusal


@dataclasses.dataclass(frozen=True)
class Difference:
    """One call that the two libraries answer differently.

    Attributes:
        name: what differs; docs/differences.md lists the same names.
        why: why jaxbce departs from PyTorch.
        function: "logits", "probs" or "classes", as in `cases`; "sigmoid" is the probability form of the sigmoid of
            logits.
        arguments: predictions, labels and options; arrays where the dtype matters, Python values where that does.
            Losses are not reduced if nothing else is said.
        quantity: "loss", the "dtype" of the loss, or a derivative of the summed loss: "d_" and the argument, or
            "d2_predictions", the diagonal of the Hessian.
        torch: what PyTorch answers.
        jaxbce: what jaxbce answers.
    """

    name: str
    why: str
    function: str
    arguments: dict[str, Any]
    quantity: str
    torch: Answer
    jaxbce: Answer


def _call(predictions: Any, labels: Any, dtype: Any = np.float32, **weights: Any) -> dict[str, Any]:
    """Arguments of one dtype."""
    arguments = {"predictions": predictions, "labels": labels, **weights}
    return {name: np.array(value, dtype) for name, value in arguments.items()}


def _classes(logits: Any, labels: Any, **arguments: Any) -> dict[str, Any]:
    """float32 logits and class weights; integers as labels are int64, other numbers float32."""
    labels = np.array(labels, np.int64 if np.array(labels).dtype.kind == "i" else np.float32)
    if "class_weight" in arguments:
        arguments["class_weight"] = np.array(arguments["class_weight"], np.float32)
    return {"predictions": np.array(logits, np.float32), "labels": labels, **arguments}


_NOT_DIFFERENTIABLE = "not differentiable with respect to argument '{}'"

DIFFERENCES = (
    # --- Logits ---------------------------------------------------------------------------------------------------
    Difference(
        "loss at infinite logits",
        "0·inf is 0: a certain and right prediction costs nothing, a certain and wrong one costs inf.",
        "logits",
        _call([np.inf, -np.inf, np.inf, -np.inf], [1, 0, 0, 1]),
        "loss",
        torch=[np.nan, np.nan, np.inf, np.nan],
        jaxbce=[0.0, 0.0, np.inf, np.inf],
    ),
    Difference(
        "loss in the right tail",
        "log(1 + exp(x)) is summed without cancellation; PyTorch's x - log σ(x) is exactly 0 from x = -14.6 on.",
        "logits",
        _call([-20.0], [0.0]),
        "loss",
        torch=[0.0],
        jaxbce=[2.0611537e-09],
    ),
    Difference(
        "gradient in the right tail",
        "σ(-x) is computed as itself and not as 1 - σ(x), which is exactly 0 from x = 17 on.",
        "logits",
        _call([20.0], [1.0]),
        "d_predictions",
        torch=[0.0],
        jaxbce=[-2.0611537e-09],
    ),
    Difference(
        "second derivative in the right tail",
        "σ(x)·σ(-x) keeps the factor that PyTorch's σ·(1 - σ) loses.",
        "logits",
        _call([20.0], [1.0]),
        "d2_predictions",
        torch=[0.0],
        jaxbce=[2.0611537e-09],
    ),
    Difference(
        "weight 0 of an infinite loss",
        "A weight of 0 leaves no trace.",
        "logits",
        _call([np.inf], [0.0], weight=[0.0]),
        "loss",
        torch=[np.nan],
        jaxbce=[0.0],
    ),
    Difference(
        "labels outside [0, 1] of logits",
        "They are a mistake (a class index, a -1 for missing), and the loss may turn negative without bound.",
        "logits",
        _call([0.5], [2.0]),
        "loss",
        torch=[-0.025923014],
        jaxbce=Refusal(ValueError, r"labels must lie in \[0, 1\]"),
    ),
    Difference(
        "dtype under wider labels",
        "The predictions alone decide the dtype of the loss.",
        "logits",
        {"predictions": np.array([1.0], np.float32), "labels": np.array([1.0], np.float64)},
        "dtype",
        torch="float64",
        jaxbce="float32",
    ),
    Difference(
        "dtype under narrower labels",
        "The predictions alone decide the dtype of the loss.",
        "logits",
        {"predictions": np.array([1.0], np.float64), "labels": np.array([1.0], np.float32)},
        "dtype",
        torch="float32",
        jaxbce="float64",
    ),
    Difference(
        "dtype of 16-bit logits",
        "A loss in 16 bits loses digits that the gradient step and the log need: it is at least float32.",
        "logits",
        _call([1.0], [1.0], jnp.bfloat16),
        "dtype",
        torch="bfloat16",
        jaxbce="float32",
    ),
    Difference(
        "integer labels of logits",
        "Hard labels come as integers; nothing is ambiguous about them.",
        "logits",
        {"predictions": np.array([1.0], np.float32), "labels": np.array([1], np.int32)},
        "loss",
        torch=Refusal(RuntimeError, "can't be cast to the desired output type"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "bool labels of logits",
        "Hard labels come as bools; nothing is ambiguous about them.",
        "logits",
        {"predictions": np.array([1.0], np.float32), "labels": np.array([True])},
        "loss",
        torch=Refusal(RuntimeError, "bool tensor"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "scalar label of logits",
        "One label for all is unambiguous, and what an adversarial loss needs.",
        "logits",
        _call([1.0, 0.0], 1.0),
        "loss",
        torch=Refusal(ValueError, "must be the same as input size"),
        jaxbce=[0.31326166, 0.6931472],
    ),
    Difference(
        "Python numbers as logits",
        "Whatever `jnp.asarray` takes is taken.",
        "logits",
        {"predictions": [1.0], "labels": [1.0]},
        "loss",
        torch=Refusal(AttributeError, "'list' object has no attribute 'size'"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "Python number as weight of logits",
        "Whatever `jnp.asarray` takes is taken.",
        "logits",
        _call([1.0], [1.0]) | {"weight": 2.0},
        "loss",
        torch=Refusal(TypeError, "must be Tensor, not float"),
        jaxbce=[0.6265233],
    ),
    Difference(
        "Python number as pos_weight",
        "Whatever `jnp.asarray` takes is taken.",
        "logits",
        _call([1.0], [1.0]) | {"pos_weight": 2.0},
        "loss",
        torch=Refusal(TypeError, "must be Tensor, not float"),
        jaxbce=[0.6265233],
    ),
    Difference(
        "negative weight of logits",
        "It turns the loss into a reward without bound: a mistake.",
        "logits",
        _call([1.0], [1.0], weight=[-1.0]),
        "loss",
        torch=[-0.31326166],
        jaxbce=Refusal(ValueError, "weight must be finite and not negative"),
    ),
    Difference(
        "negative pos_weight",
        "It turns the loss into a reward without bound: a mistake.",
        "logits",
        _call([1.0], [1.0], pos_weight=[-1.0]),
        "loss",
        torch=[-0.31326166],
        jaxbce=Refusal(ValueError, "pos_weight must be finite and not negative"),
    ),
    Difference(
        "gradient by weight of logits",
        "Weights may be learnt.",
        "logits",
        _call([1.0], [1.0], weight=[2.0]),
        "d_weight",
        torch=Refusal(RuntimeError, _NOT_DIFFERENTIABLE.format("weight")),
        jaxbce=[0.31326166],
    ),
    Difference(
        "gradient by pos_weight",
        "Weights may be learnt.",
        "logits",
        _call([1.0], [1.0], pos_weight=[2.0]),
        "d_pos_weight",
        torch=Refusal(RuntimeError, _NOT_DIFFERENTIABLE.format("pos_weight")),
        jaxbce=[0.31326166],
    ),
    # --- Probabilities --------------------------------------------------------------------------------------------
    Difference(
        "gradient at a certain and right probability",
        "The one-sided derivative; PyTorch's 0 is 0/1e-12, not a limit.",
        "probs",
        _call([0.0, 1.0], [0.0, 1.0]),
        "d_predictions",
        torch=[0.0, 0.0],
        jaxbce=[1.0, -1.0],
    ),
    Difference(
        "second derivative at a certain and right probability",
        "The one-sided derivative; PyTorch's 0 is 0/1e-24, not a limit.",
        "probs",
        _call([0.0, 1.0], [0.0, 1.0]),
        "d2_predictions",
        torch=[0.0, 0.0],
        jaxbce=[1.0, 1.0],
    ),
    Difference(
        "second derivative next to a certain and right probability",
        "1/p², and not (p² - 2py + y)/(p·(1 - p))², whose numerator cancels.",
        "probs",
        _call([1 - 2.0**-24], [1.0]),
        "d2_predictions",
        torch=[0.0],
        jaxbce=[1.0000001],
    ),
    Difference(
        "gradient where p·(1 - p) < 1e-12",
        "The derivative of the loss; PyTorch puts 1e-12 in the place of p·(1 - p).",
        "probs",
        _call([1e-13], [1.0]),
        "d_predictions",
        torch=[-1e12],
        jaxbce=[-1e13],
    ),
    Difference(
        "gradient of 16-bit probabilities",
        "Computed in float32, where 1e-12 is not 0.",
        "probs",
        _call([0.0, 1.0], [0.0, 1.0], np.float16),
        "d_predictions",
        torch=[np.nan, np.nan],
        jaxbce=[1.0, -1.0],
    ),
    Difference(
        "gradient through a sigmoid",
        "What a model that ends in a sigmoid still gets to learn from: σ(x) - y, where PyTorch's 1e-12 flattens it.",
        "sigmoid",
        _call([-50.0], [1.0]),
        "d_predictions",
        torch=[-1.9287499e-10],
        jaxbce=[-1.0],
    ),
    Difference(
        "gradient by labels at probabilities 0 and 1",
        "The derivative of the loss, whose logarithms are clamped; PyTorch differentiates unclamped ones.",
        "probs",
        _call([0.0, 1.0], [0.5, 0.5]),
        "d_labels",
        torch=[np.inf, -np.inf],
        jaxbce=[100.0, -100.0],
    ),
    Difference(
        "NaN probability",
        "NaN in gives NaN out, as everywhere in JAX.",
        "probs",
        _call([np.nan], [1.0]),
        "loss",
        torch=Refusal(RuntimeError, "all elements of input should be between 0 and 1"),
        jaxbce=[np.nan],
    ),
    Difference(
        "NaN label of a probability",
        "NaN in gives NaN out, as everywhere in JAX.",
        "probs",
        _call([0.5], [np.nan]),
        "loss",
        torch=Refusal(RuntimeError, "all elements of target should be between 0 and 1"),
        jaxbce=[np.nan],
    ),
    Difference(
        "labels of another dtype than the probabilities",
        "The predictions alone decide the dtype of the loss.",
        "probs",
        {"predictions": np.array([0.5], np.float32), "labels": np.array([1.0], np.float64)},
        "dtype",
        torch=Refusal(RuntimeError, "Found dtype Double but expected Float"),
        jaxbce="float32",
    ),
    Difference(
        "integer labels of probabilities",
        "Hard labels come as integers; nothing is ambiguous about them.",
        "probs",
        {"predictions": np.array([0.5], np.float32), "labels": np.array([1], np.int32)},
        "loss",
        torch=Refusal(RuntimeError, "Found dtype Int but expected Float"),
        jaxbce=[0.6931472],
    ),
    Difference(
        "bool labels of probabilities",
        "Hard labels come as bools; nothing is ambiguous about them.",
        "probs",
        {"predictions": np.array([0.5], np.float32), "labels": np.array([True])},
        "loss",
        torch=Refusal(RuntimeError, "Found dtype Bool but expected Float"),
        jaxbce=[0.6931472],
    ),
    Difference(
        "scalar label of probabilities",
        "One label for all is unambiguous, and what an adversarial loss needs.",
        "probs",
        _call([0.5, 1.0], 1.0),
        "loss",
        torch=Refusal(ValueError, "that is different to the input size"),
        jaxbce=[0.6931472, 0.0],
    ),
    Difference(
        "Python number as weight of probabilities",
        "Whatever `jnp.asarray` takes is taken.",
        "probs",
        _call([0.5], [1.0]) | {"weight": 2.0},
        "loss",
        torch=Refusal(AttributeError, "'float' object has no attribute 'size'"),
        jaxbce=[1.3862944],
    ),
    Difference(
        "negative weight of probabilities",
        "It turns the loss into a reward without bound: a mistake.",
        "probs",
        _call([0.5], [1.0], weight=[-1.0]),
        "loss",
        torch=[-0.6931472],
        jaxbce=Refusal(ValueError, "weight must be finite and not negative"),
    ),
    Difference(
        "gradient by weight of probabilities",
        "Weights may be learnt.",
        "probs",
        _call([0.5], [1.0], weight=[2.0]),
        "d_weight",
        torch=Refusal(RuntimeError, _NOT_DIFFERENTIABLE.format("weight")),
        jaxbce=[0.6931472],
    ),
    Difference(
        "pos_weight of probabilities",
        "It means the same for both forms.",
        "probs",
        _call([0.5], [1.0], pos_weight=[2.0]),
        "loss",
        torch=Refusal(TypeError, "unexpected keyword argument 'pos_weight'"),
        jaxbce=[1.3862944],
    ),
    # --- Classes --------------------------------------------------------------------------------------------------
    Difference(
        "loss of a sure and right class",
        "log(1 + S) is log1p(S), where S leaves the largest class out; PyTorch's 1 + S is exactly 1.",
        "classes",
        _classes([0.0, 20.0], 1),
        "loss",
        torch=[0.0],
        jaxbce=[2.0611537e-09],
    ),
    Difference(
        "gradient of a sure and right class",
        "1 - p is S/(1 + S), where S leaves the largest class out; PyTorch's 1 - p is exactly 0.",
        "classes",
        _classes([0.0, 20.0], 1),
        "d_predictions",
        torch=[2.0611537e-09, 0.0],
        jaxbce=[2.0611537e-09, -2.0611537e-09],
    ),
    Difference(
        "second derivative of a sure and right class",
        "p·(1 - p) keeps the factor that PyTorch loses.",
        "classes",
        _classes([0.0, 20.0], 1),
        "d2_predictions",
        torch=[2.0611537e-09, 0.0],
        jaxbce=[2.0611537e-09, 2.0611537e-09],
    ),
    Difference(
        "loss at an infinite logit of a class",
        "One logit of inf is a certain class: nothing is lost if it is the label, and inf if it is not.",
        "classes",
        _classes([[np.inf, 0.0], [np.inf, 0.0]], [0, 1]),
        "loss",
        torch=[np.nan, np.nan],
        jaxbce=[0.0, np.inf],
    ),
    Difference(
        "gradient at an infinite logit of a class",
        "p - y, as at every other logit.",
        "classes",
        _classes([[np.inf, 0.0], [np.inf, 0.0]], [0, 1]),
        "d_predictions",
        torch=[np.nan, np.nan, np.nan, np.nan],
        jaxbce=[0.0, 0.0, 1.0, -1.0],
    ),
    Difference(
        "impossible class of probability 0",
        "0·inf is 0: a class with logit -inf costs nothing where it is not the label, as PyTorch has it for indices.",
        "classes",
        _classes([[1.0, 1.0, -np.inf]], [[1.0, 0.0, 0.0]]),
        "loss",
        torch=[np.nan],
        jaxbce=[0.6931472],
    ),
    Difference(
        "class weight 0 of an infinite loss",
        "A weight of 0 leaves no trace.",
        "classes",
        _classes([[0.0, -np.inf]], [1], class_weight=[1.0, 0.0]),
        "loss",
        torch=[np.nan],
        jaxbce=[0.0],
    ),
    Difference(
        "mean where every label is ignored",
        "Nothing is included, and so nothing is lost: a batch without labels must not end the training.",
        "classes",
        _classes([[1.0, 2.0], [0.0, 3.0]], [-100, -100], reduction="mean"),
        "loss",
        torch=[np.nan],
        jaxbce=[0.0],
    ),
    Difference(
        "mean where every label has class weight 0",
        "Nothing is included, and so nothing is lost.",
        "classes",
        _classes([[1.0, 2.0]], [0], class_weight=[0.0, 1.0], reduction="mean"),
        "loss",
        torch=[np.nan],
        jaxbce=[0.0],
    ),
    Difference(
        "gradient where every label has class weight 0",
        "Nothing is included, and so nothing is learnt.",
        "classes",
        _classes([[1.0, 2.0]], [0], class_weight=[0.0, 1.0], reduction="mean"),
        "d_predictions",
        torch=[np.nan, np.nan],
        jaxbce=[0.0, 0.0],
    ),
    Difference(
        "gradient at NaN logits of an ignored label",
        "What is left out may hold anything.",
        "classes",
        _classes([[np.nan, 0.0], [0.0, 0.0]], [-100, 1]),
        "d_predictions",
        torch=[np.nan, np.nan, 0.5, -0.5],
        jaxbce=[0.0, 0.0, 0.5, -0.5],
    ),
    Difference(
        "class index out of range",
        "Shapes and values that do not fit are a ValueError; where no value can be read, NaN.",
        "classes",
        _classes([[1.0, 2.0]], [2]),
        "loss",
        torch=Refusal(IndexError, "Target 2 is out of bounds"),
        jaxbce=Refusal(ValueError, r"labels must be class indices in \[0, 2\)"),
    ),
    Difference(
        "int32 class indices",
        "Every integer is an index; int32 is what JAX makes of a Python integer.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"labels": np.array([1], np.int32)},
        "loss",
        torch=Refusal(RuntimeError, "expected target dtype to be Long or Byte, but got Int"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "int16 class indices",
        "Every integer is an index.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"labels": np.array([1], np.int16)},
        "loss",
        torch=Refusal(RuntimeError, "expected target dtype to be Long or Byte, but got Short"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "bool class indices",
        "A dtype that does not fit is a TypeError; bools are labels of a binary loss.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"labels": np.array([True])},
        "loss",
        torch=Refusal(RuntimeError, "expected target dtype to be Long or Byte, but got Bool"),
        jaxbce=Refusal(TypeError, "class indices must be integers"),
    ),
    Difference(
        "integer one-hot labels of classes",
        "One-hot labels come as integers; nothing is ambiguous about them.",
        "classes",
        _classes([[1.0, 2.0]], [[0, 1]]),
        "loss",
        torch=Refusal(RuntimeError, "Expected floating point type for target with class probabilities, got Long"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "bool one-hot labels of classes",
        "One-hot labels come as bools; nothing is ambiguous about them.",
        "classes",
        _classes([[1.0, 2.0]], [[0, 1]]) | {"labels": np.array([[False, True]])},
        "loss",
        torch=Refusal(RuntimeError, "Expected floating point type for target with class probabilities, got Bool"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "scalar class index",
        "One label for all is unambiguous.",
        "classes",
        _classes([[1.0, 2.0], [0.0, 0.0]], 1),
        "loss",
        torch=Refusal(ValueError, "to match target batch_size"),
        jaxbce=[0.31326166, 0.6931472],
    ),
    Difference(
        "classes on the last axis",
        "It is where JAX has them; `class_axis=1` is PyTorch's layout.",
        "classes",
        _classes([[[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]]], [[1, 2]]),
        "loss",
        torch=Refusal(RuntimeError, r"Expected target size \[1, 3\], got \[1, 2\]"),
        jaxbce=[0.55144471, 1.0986123],
    ),
    Difference(
        "class probabilities outside [0, 1]",
        "They are a mistake, and the loss may turn negative without bound.",
        "classes",
        _classes([[1.0, 2.0]], [[2.0, -1.0]]),
        "loss",
        torch=[2.3132617],
        jaxbce=Refusal(ValueError, r"labels must lie in \[0, 1\]"),
    ),
    Difference(
        "negative label_smoothing of classes",
        "It takes labels below 0: a mistake, which PyTorch passes over as if it were 0.",
        "classes",
        _classes([[1.0, 2.0]], [1], label_smoothing=-0.5),
        "loss",
        torch=[0.31326166],
        jaxbce=Refusal(ValueError, r"label_smoothing must lie in \[0, 1\]"),
    ),
    Difference(
        "label_smoothing of classes above 1",
        "What is outside its domain is a ValueError.",
        "classes",
        _classes([[1.0, 2.0]], [1], label_smoothing=1.5),
        "loss",
        torch=Refusal(RuntimeError, "label_smoothing must be between 0.0 and 1.0"),
        jaxbce=Refusal(ValueError, r"label_smoothing must lie in \[0, 1\]"),
    ),
    Difference(
        "negative class_weight",
        "It turns the loss into a reward without bound: a mistake.",
        "classes",
        _classes([[1.0, 2.0]], [1], class_weight=[1.0, -1.0]),
        "loss",
        torch=[-0.31326166],
        jaxbce=Refusal(ValueError, "class_weight must be finite and not negative"),
    ),
    Difference(
        "dtype under wider class probabilities",
        "The predictions alone decide the dtype of the loss.",
        "classes",
        _classes([[1.0, 2.0]], [[0.0, 1.0]]) | {"labels": np.array([[0.0, 1.0]], np.float64)},
        "dtype",
        torch="float64",
        jaxbce="float32",
    ),
    Difference(
        "dtype of 16-bit logits of classes",
        "A loss in 16 bits loses digits that the gradient step and the log need: it is at least float32.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"predictions": np.array([[1.0, 2.0]], jnp.bfloat16)},
        "dtype",
        torch="bfloat16",
        jaxbce="float32",
    ),
    Difference(
        "class_weight of another dtype than the logits",
        "The predictions alone decide the dtype of the loss.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"class_weight": np.array([1.0, 2.0], np.float64)},
        "loss",
        torch=Refusal(RuntimeError, "expected scalar type Float but found Double"),
        jaxbce=[0.6265233],
    ),
    Difference(
        "Python numbers as logits of classes",
        "Whatever `jnp.asarray` takes is taken.",
        "classes",
        {"predictions": [[1.0, 2.0]], "labels": [1]},
        "loss",
        torch=Refusal(TypeError, "argument 'input' .* must be Tensor, not list"),
        jaxbce=[0.31326166],
    ),
    Difference(
        "Python numbers as class_weight",
        "Whatever `jnp.asarray` takes is taken.",
        "classes",
        _classes([[1.0, 2.0]], [1]) | {"class_weight": [1.0, 2.0]},
        "loss",
        torch=Refusal(TypeError, "argument 'weight' .* must be Tensor, not list"),
        jaxbce=[0.6265233],
    ),
    Difference(
        "gradient by class_weight under class indices",
        "Weights may be learnt, as PyTorch has it for class probabilities.",
        "classes",
        _classes([[1.0, 2.0]], [1], class_weight=[1.0, 2.0]),
        "d_class_weight",
        torch=Refusal(RuntimeError, _NOT_DIFFERENTIABLE.format("weight")),
        jaxbce=[0.0, 0.31326166],
    ),
    Difference(
        'reduction "weighted_mean" of class probabilities',
        "Σ loss / Σ weight, which PyTorch's mean is for class indices alone.",
        "classes",
        _classes(
            [[1.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], class_weight=[3.0, 1.0], reduction="weighted_mean"
        ),
        "loss",
        torch=Refusal(ValueError, "weighted_mean is not a valid value for reduction"),
        jaxbce=[0.5981758],
    ),
)
