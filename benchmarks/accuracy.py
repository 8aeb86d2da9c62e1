"""Measure the accuracy of jaxbce beside its peers: the worst error over random points, new ones in every run.

``python benchmarks/accuracy.py`` prints two Markdown tables: worst errors in ulp, and special cases. ``--check``
exits with status 1 if jaxbce exceeds a bar; ``--seed`` repeats a run. The peers come with the extra `bench`; the table
names the peers that are not installed.

Predictions cover the normal numbers of their dtype, most densely around saturation. In bfloat16 and float16 every
finite logit is evaluated. JAX libraries run eagerly, under `jit`, and under `jit` with a constant pos_weight, and the
worst of the three counts. If a quantity is a difference of two terms (the gradient under soft labels), its ulp is that
of the larger term. Exact values come from mpmath for float64, and from NumPy in float64 for the other dtypes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from tqdm import tqdm

import jaxbce

Loss = Callable[[Any, Any, Any], Any]  # (predictions, labels, pos_weight) -> losses
Evaluate = Callable[[str, np.ndarray, np.ndarray, np.ndarray | None], list[np.ndarray]]
Library = dict[str, Evaluate] | None  # by form: "logits", "pos_weight", "probs", "masked"

DTYPES = ("float32", "float64", "bfloat16", "float16")
# Give the title, the form, the quantity (a loss, or a derivative with respect to x, y or w), the labels, and the bars
# of jaxbce in the order of DTYPES. None is measured without a bar; a dtype after the last bar is not measured.
ROWS = (
    ("loss, hard labels", "logits", "loss", "hard", (3.5, 3.5, 3.5, 3.5)),
    ("loss, soft labels", "logits", "loss", "soft", (3.5, 3.5, 3.5, 3.5)),
    ("loss, hard labels, `pos_weight`", "pos_weight", "loss", "hard", (5.0, 5.0)),
    ("loss, soft labels, `pos_weight`", "pos_weight", "loss", "soft", (6.0, 6.0)),
    ("gradient, hard labels", "logits", "dx", "hard", (2.0, 2.0, 0.51, 0.51)),
    ("gradient, soft labels", "logits", "dx", "soft", (3.0, 3.0, 0.51, 0.51)),
    ("gradient, hard labels, `pos_weight`", "pos_weight", "dx", "hard", (3.5, 3.5)),
    ("gradient, soft labels, `pos_weight`", "pos_weight", "dx", "soft", (6.5, 6.5)),
    ("Hessian", "logits", "dxx", "soft", (3.0, 4.0)),
    ("Hessian, `pos_weight`", "pos_weight", "dxx", "soft", (5.0, 5.0)),
    ("gradient of the labels, `pos_weight`", "pos_weight", "dy", "soft", (None, None)),
    ("gradient of `pos_weight`", "pos_weight", "dw", "soft", (None, None)),
    ("probabilities: loss", "probs", "loss", "soft", (4.0, 4.0)),
    ("probabilities: gradient", "probs", "dx", "soft", (3.0, 3.0)),
)
SPECIAL = (  # title, exact value, form, quantity, logit, label
    ("loss, y=1, x=inf", "0", "logits", "loss", np.inf, 1.0),
    ("loss, y=1, x=-inf", "inf", "logits", "loss", -np.inf, 1.0),
    ("gradient, y=1, x=-inf", "-1", "logits", "dx", -np.inf, 1.0),
    ("loss, y=0, x=-20", "2.06e-09", "logits", "loss", -20.0, 0.0),
    ("gradient, y=1, x=20", "-2.06e-09", "logits", "dx", 20.0, 1.0),
    ("Hessian, y=0, x=20", "2.06e-09", "logits", "dxx", 20.0, 0.0),
    ("gradient of a masked NaN", "0", "masked", "dx", np.nan, 1.0),
)


# --- Libraries ----------------------------------------------------------------------------------------------------


def jax_evaluate(loss: Loss) -> Evaluate:
    """Evaluate a JAX loss and its derivatives eagerly, under `jit`, and under `jit` with a constant pos_weight."""

    def total(x: Any, y: Any, w: Any) -> Any:
        return loss(x, y, w).sum()

    slope = jax.grad(total)
    functions = {"loss": loss, "dx": slope, "dy": jax.grad(total, 1), "dw": jax.grad(total, 2)}
    functions["dxx"] = jax.grad(lambda x, y, w: slope(x, y, w).sum())

    def evaluate(quantity: str, x: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> list[np.ndarray]:
        f = functions[quantity]
        x, y, w = jax.tree.map(jnp.asarray, (x, y, w))
        results = [f(x, y, w), jax.jit(f)(x, y, w)]
        if w is not None:  # let XLA constant-fold w, which reassociates the products
            results.append(jax.jit(lambda x, y: f(x, y, jnp.full_like(x, w[0])))(x, y))
        return [np.asarray(result, np.float64) for result in results]

    return evaluate


def _jaxbce() -> Library:
    def logits(x: Any, y: Any, w: Any, where: Any = None) -> Any:
        return jaxbce.binary_cross_entropy_with_logits(x, y, pos_weight=w, where=where, reduction="none")

    return {
        "logits": jax_evaluate(logits),
        "pos_weight": jax_evaluate(logits),
        "probs": jax_evaluate(lambda p, y, _: jaxbce.binary_cross_entropy(p, y, reduction="none")),
        "masked": jax_evaluate(lambda x, y, _: logits(x, y, None, where=~jnp.isnan(x))),
    }


def _torch() -> Library:
    import torch
    from torch.nn import functional

    def logits(x: Any, y: Any, w: Any) -> Any:
        return functional.binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="none")

    def tensor(values: np.ndarray | None) -> Any:
        # Convert to float64 first, since torch does not read bfloat16 arrays of NumPy.
        return values if values is None else torch.tensor(values.astype(float), dtype=getattr(torch, values.dtype.name))

    def evaluator(loss: Loss) -> Evaluate:
        def evaluate(quantity: str, x: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> list[np.ndarray]:
            if quantity == "dw":
                return []  # skip: torch raises on the gradient of pos_weight
            args = dict(zip("xyw", map(tensor, (x, y, w)), strict=True))
            variables = () if quantity == "loss" else quantity[1:]
            for variable in variables:
                args[variable].requires_grad_()
            result = loss(*args.values())
            for variable in variables:
                (result,) = torch.autograd.grad(result.sum(), args[variable], create_graph=True)
            return [result.detach().double().numpy()]

        return evaluate

    return {
        "logits": evaluator(logits),
        "pos_weight": evaluator(logits),
        "probs": evaluator(lambda p, y, _: functional.binary_cross_entropy(p, y, reduction="none")),
        "masked": evaluator(lambda x, y, w: torch.where(x.isnan(), 0.0, logits(x, y, w))),
    }


def _optax() -> Library:
    import optax

    logits = optax.sigmoid_binary_cross_entropy
    return {
        "logits": jax_evaluate(lambda x, y, _: logits(x, y)),
        "masked": jax_evaluate(lambda x, y, _: jnp.where(jnp.isnan(x), 0.0, logits(x, y))),
    }


def _keras() -> Library:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    loss = keras.ops.binary_crossentropy
    return {
        "logits": jax_evaluate(lambda x, y, _: loss(y, x, from_logits=True)),
        "probs": jax_evaluate(lambda p, y, _: loss(y, p)),
        "masked": jax_evaluate(lambda x, y, _: jnp.where(jnp.isnan(x), 0.0, loss(y, x, from_logits=True))),
    }


def libraries_at_hand() -> Iterator[tuple[str, Library]]:
    """Yield the name and the `Library` of jaxbce and of each peer; None if it is not installed."""
    for name, load in (("jaxbce", _jaxbce), ("torch", _torch), ("optax", _optax), ("Keras", _keras)):
        try:
            yield name, load()
        except ImportError:
            yield name, None


# --- Points and exact values --------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Points, and each quantity there as (high, low, scale): its exact value high + low, and the scale of its ulp."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray | None
    exact: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _cases(rng: np.random.Generator, dtype: np.dtype, form: str, labels: str) -> Iterator[Case]:
    n = 1_000 if dtype == np.float64 else 10_000
    for weight in (1e-3, 3.0, 1e3, 10.0 ** rng.uniform(-4.0, 4.0)) if form == "pos_weight" else (None,):
        x = (_probs if form == "probs" else _logits)(rng, dtype, n)
        y = rng.uniform(size=x.size) * rng.choice([1.0, 2.0**-4, 2.0**-10], x.size)
        y = np.where(rng.uniform(size=x.size) < 0.5, y, 1.0 - y).astype(dtype)
        if labels == "hard":
            x, y = np.tile(x, 2), np.repeat(np.array([0.0, 1.0], dtype), x.size)
        w = None if weight is None else np.full(x.size, weight, dtype)
        yield Case(x, y, w, exact_values(form, x, y, w))


def _logits(rng: np.random.Generator, dtype: np.dtype, n: int) -> np.ndarray:
    info = jnp.finfo(dtype)
    if info.bits == 16:
        every = np.arange(2**16, dtype=np.uint16).view(dtype)
        return every[np.isfinite(every)]
    magnitudes = (
        2.0 ** rng.uniform(info.minexp, info.maxexp, n),
        2.0 ** rng.uniform(-12.0, 4.0, n),
        rng.uniform(0.0, 2.0, n),
        # Cover saturation, from the x at which 1 + exp(-x) rounds to 1 to the x at which exp(-x) underflows.
        rng.uniform(*((15.0, 110.0) if info.bits == 32 else (30.0, 750.0)), n),
        [0.0, float(info.tiny), float(info.max)],
    )
    return np.concatenate([*magnitudes, *map(np.negative, magnitudes)]).astype(dtype)


def _probs(rng: np.random.Generator, dtype: np.dtype, n: int) -> np.ndarray:
    info = jnp.finfo(dtype)
    near_0, near_1 = 2.0 ** rng.uniform(info.minexp, 0.0, n), 1.0 - 2.0 ** rng.uniform(-info.nmant, 0.0, n)
    p = np.concatenate([near_0, near_1, rng.uniform(size=n)]).astype(dtype)
    return p[(p >= info.tiny) & (p < 1.0)]


def exact_values(form: str, *args: np.ndarray | None) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Compute (high, low, scale) of each quantity at (x, y, w), as in `Case`."""
    multiprecise = args[0].dtype == np.float64

    def lift(values: np.ndarray) -> np.ndarray:
        return np.frompyfunc(mpmath.mpf, 1, 1)(values) if multiprecise else values.astype(float)

    def apply(function: str, values: np.ndarray) -> np.ndarray:
        return (np.frompyfunc(getattr(mpmath, function), 1, 1) if multiprecise else getattr(np, function))(values)

    def split(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value = first - second
        high = value.astype(float)
        low = np.where(np.isfinite(high), value - high, 0).astype(float)
        return high, low, np.maximum(first, second).astype(float)

    x, y, w = (1 if values is None else lift(values) for values in args)
    a, b, zero = w * y, 1 - y, 0 * x
    # Write each quantity as a difference of two terms ≥ 0; the scale is the larger term.
    if form == "probs":
        log_p, log_q = np.maximum(apply("log", x), -100), np.maximum(apply("log1p", -x), -100)
        return {"loss": split(-(a * log_p + b * log_q), zero), "dx": split(b / (1 - x), a / x)}
    m = apply(
        "exp", -np.minimum(abs(x), 2000)
    )  # clip, since mpmath is slow at exp(-1e300); exp(-2000) is 0 in every dtype
    q, tail = m / (1 + m), apply("log1p", m)
    up, down = np.where(x >= 0, 1 - q, q), np.where(x >= 0, q, 1 - q)
    cost_1, cost_0 = np.maximum(-x, 0) + tail, np.maximum(x, 0) + tail
    return {
        "loss": split(a * cost_1 + b * cost_0, zero),
        "dx": split(b * up, a * down),
        "dxx": split((a + b) * up * down, zero),
        "dy": split(w * cost_1, cost_0),
        "dw": split(y * cost_1, zero),
    }


# --- Tables -------------------------------------------------------------------------------------------------------


def _worst(case: Case, quantity: str, got: np.ndarray) -> tuple[float, str, str]:
    """Return the largest error in ulp, its cell of the table, and its point to the last bit."""
    compute = jnp.finfo(np.promote_types(case.x.dtype, np.float32))
    unit = compute if quantity == "loss" else jnp.finfo(case.x.dtype)
    high, low, scale = case.exact[quantity]
    most = float(unit.max)  # accept inf for an exact value above it
    scale = np.clip(scale, float(unit.tiny), most)
    error = abs(np.clip(got, -most, most) - np.clip(high, -most, most) - np.where(abs(high) < most, low, 0.0))
    # Ignore errors below the least normal number, since XLA flushes subnormal numbers to 0.
    error[error <= float(compute.tiny) * (1.0 if case.w is None else np.maximum(case.w, 1.0))] = 0.0
    error[np.isnan(error)] = np.inf
    ulps = np.ldexp(error, unit.nmant + 1 - np.frexp(scale)[1])
    # Choose the point of the largest error; among errors of 100 % or more, the point nearest to 0.
    i = np.lexsort((-abs(case.x.astype(float)), np.where(error < scale, ulps, np.inf)))[-1]
    variables = {"y": case.y, "x": case.x} | ({} if case.w is None else {"w": case.w})
    short, exact = (
        ", ".join(f"{k}={v[i].item():{digits}}" for k, v in variables.items()) for digits in (".3g", ".17g")
    )
    if error[i] < 0.01 * scale[i]:
        return ulps[i], f"{ulps[i]:.3g} ({short})", exact
    wrong = f"{got[i]:.3g} instead of {high[i]:.3g}; {short}"
    return ulps[i], f"{100 * (error[i] / scale[i]):.3g} % ({wrong})", exact


def _errors(rng: np.random.Generator, libraries: dict[str, Library]) -> tuple[list[list[str]], list[str]]:
    """Return the table of worst errors, and a line for each bar that jaxbce exceeded."""
    table, exceeded = [["dtype", "worst error in ulp", "bar", *libraries]], []
    todo = [(d, dtype, *row) for d, dtype in enumerate(DTYPES) for row in ROWS if d < len(row[-1])]
    cases = {}
    for d, dtype, title, form, quantity, labels, bars in tqdm(todo, disable=None):
        key = dtype, form, labels
        if key not in cases:
            cases[key] = list(_cases(rng, jnp.dtype(dtype), form, labels))
        title += " (ulp of float32)" if quantity == "loss" and dtype.endswith("16") else ""
        table.append([dtype, title, str(bars[d] or "")])
        for name, library in libraries.items():
            if library is None or form not in library:
                table[-1].append("not installed" if library is None else "—")
                continue
            tried = [(c, got) for c in cases[key] for got in library[form](quantity, c.x, c.y, c.w)]
            ulp, cell, point = max((_worst(c, quantity, got) for c, got in tried), default=(0.0, "—", ""))
            table[-1].append(cell)
            if name == "jaxbce" and bars[d] is not None and ulp > bars[d]:
                exceeded.append(f"{dtype} {title}: {ulp:.3f} ulp, above {bars[d]}, at {point}")
    return table, exceeded


def _special(libraries: dict[str, Library]) -> list[list[str]]:
    table = [["float32", *(case[0] for case in SPECIAL), "logits [4], labels [4, 1]"]]
    table.append(["exact", *(case[1] for case in SPECIAL), "refuse"])
    for name, library in libraries.items():
        if library is None:
            continue
        table.append([name])
        for _, _, form, quantity, x, y in SPECIAL:
            got = library[form](quantity, np.array([x], np.float32), np.array([y], np.float32), None)[0]
            table[-1].append(f"{got.item() + 0.0:.3g}")
        try:
            losses = library["logits"]("loss", np.zeros(4, np.float32), np.zeros((4, 1), np.float32), None)[0]
            table[-1].append(str(list(losses.shape)))
        except ValueError:
            table[-1].append("ValueError")
    return table


def _print(table: list[list[str]]) -> None:
    for row in (table[0], ["---"] * len(table[0]), *table[1:]):
        print("|", " | ".join(row), "|")
    print()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure the accuracy of jaxbce beside its peers.")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if jaxbce exceeds a bar")
    parser.add_argument("--seed", type=int, help="repeat the run of this seed")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    mpmath.mp.prec = 120
    seed = np.random.SeedSequence(options.seed).entropy
    libraries = dict(libraries_at_hand())
    with np.errstate(all="ignore"):
        table, exceeded = _errors(np.random.default_rng(seed), libraries)
    _print(table)
    _print(_special(libraries))
    print("Seed:", seed)
    if options.check and exceeded:
        sys.exit("\n".join(exceeded))


if __name__ == "__main__":
    main()
