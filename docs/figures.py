"""The figures of the pages, drawn when the site is built: SVG that stands in the page and takes its text colour.

The errors beside the peers rest on `benchmarks/accuracy.py`: its libraries, its exact values. A peer that is not
installed is left out, and `peers.md` says so.
"""

import html
import importlib.metadata
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxbce
from benchmarks.accuracy import exact_values, jax_evaluate, libraries_at_hand

BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82c4", "#e07b00", "#2a9d6f", "#d1495b", "#9067c6"
"""Readable on white and on black."""

INK = "#010203"
"""Stands for the text colour of the page until the SVG is written."""

STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
    "svg.hashsalt": "jaxbce",  # The same input draws the same file.
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

BATCH, WIDTH, POSITIVES = 256, 128, 10
"""Examples, features and labels that are on, of the figure of memory."""

BCE = jaxbce.binary_cross_entropy_with_logits


def draw(folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE), np.errstate(all="ignore"):
        for name, title, curves in _curves():
            _write(folder / f"curve-{name}.html", _three_orders(curves), title)
        for name, figure, title in _errors(folder / "peers.md"):
            _write(folder / f"error-{name}.html", figure, title)
        _write(folder / "calibration.html", _calibration(), "What a fitted model says, against the true frequency")
        _write(
            folder / "memory.html", _memory(), "Memory of a training step beside its arguments and gradients, on CPU"
        )


def _write(path: Path, figure: Figure, caption: str) -> None:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # Several figures share a page, and none is linked to by its parts.
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)
    escaped = re.sub(r"`(.*?)`", r"<code>\1</code>", html.escape(caption))
    path.write_text(f'<figure class="plot">{svg}<figcaption>{escaped}</figcaption></figure>\n', encoding="utf-8")


# --- Every loss and its derivatives -------------------------------------------------------------------------------

Curve = tuple[str, Callable[[Any], Any]]  # its name, the loss of a logit


def _curves() -> Iterator[tuple[str, str, list[Curve]]]:
    def labels(loss: Callable[..., Any], **options: Any) -> list[Curve]:
        return [("label 1", lambda x: loss(x, 1, **options)), ("label 0", lambda x: loss(x, 0, **options))]

    yield "bce", "`binary_cross_entropy_with_logits`", labels(BCE)
    yield "pos_weight", "the same with `pos_weight=3`", labels(BCE, pos_weight=3.0)
    yield "smoothing", "the same with `label_smoothing=0.2`", labels(BCE, label_smoothing=0.2)
    yield "focal", "`sigmoid_focal_loss`, `gamma=2`", labels(jaxbce.sigmoid_focal_loss)
    yield "asymmetric", "`asymmetric_loss`, `gamma_neg=4`, `margin=0.05`", labels(jaxbce.asymmetric_loss)
    generator = [
        ("non-saturating", jaxbce.gan_generator_loss),
        ("saturating", lambda x: jaxbce.gan_generator_loss(x, saturating=True)),
    ]
    yield "generator", "`gan_generator_loss`", generator


def _three_orders(curves: list[Curve]) -> Figure:
    figure = Figure(figsize=(4.4, 5.2), layout="constrained")
    x = jnp.linspace(-6.0, 6.0, 241)
    for order, axes in enumerate(figure.subplots(3, 1, sharex=True)):
        # Dashes, because two Hessians may be the same.
        for (name, loss), colour, line in zip(curves, (BLUE, ORANGE), ("-", "--"), strict=True):
            f = loss
            for _ in range(order):
                f = jax.grad(f)
            axes.plot(x, jax.jit(jax.vmap(f))(x), line, color=colour, label=name)
        axes.set_ylabel(("loss", "gradient", "Hessian")[order])
    axes.set_xlabel("logit x")
    figure.axes[0].legend()
    return figure


# --- Errors beside the peers --------------------------------------------------------------------------------------


def _naive(x: Any, y: Any, _: Any) -> Any:
    p = jax.nn.sigmoid(x)
    return -(y * jnp.log(p) + (1.0 - y) * jnp.log(1.0 - p))


def _errors(note: Path) -> Iterator[tuple[str, Figure, str]]:
    """A figure per quantity: the worst relative error in float32 of each library, by the logit in favour of the label.

    Beyond ±86 the results are subnormal numbers, which XLA flushes.
    """
    libraries = dict(libraries_at_hand())
    note.write_text(_who_is_drawn(libraries), encoding="utf-8")
    libraries = {"naive formula": {"logits": jax_evaluate(_naive)}} | libraries
    styles = {"jaxbce": (GREEN, "-"), "naive formula": (RED, ":"), "torch": (ORANGE, "-"), "optax": (BLUE, "--")}
    styles["Keras"] = (PURPLE, "-.")

    edges = np.arange(-86, 87, 2)
    margins = np.random.default_rng(0).uniform(edges[:-1], edges[1:], (40, edges.size - 1)).astype(np.float32)
    points = [(margins, 1.0), (-margins, 0.0)]
    for quantity, name in (("loss", "loss"), ("dx", "gradient"), ("dxx", "Hessian")):
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for library, evaluators in libraries.items():
            if evaluators is None:
                continue
            worst = np.zeros(edges.size - 1)
            for x, label in points:
                y = np.full_like(x, label)
                exact = exact_values("logits", x, y, None)[quantity][0]
                for got in evaluators["logits"](quantity, x, y, None):
                    error = abs(got - exact) / abs(exact)
                    worst = np.maximum(worst, np.where(np.isfinite(error), error, 10.0).max(axis=0))
            colour, line = styles[library]
            over = 3 if library == "jaxbce" else 2
            axes.plot(edges[:-1] + 1, np.clip(worst, 1e-9, 10.0), line, color=colour, label=library, zorder=over)
        axes.set(yscale="log", ylim=(7e-10, 30.0), xlabel="logit in favour of the label", ylabel="worst relative error")
        axes.legend(ncols=3, loc="upper center", fontsize=9, bbox_to_anchor=(0.5, 1.22))
        yield name, figure, f"Worst relative error of the {name}, float32"


def _who_is_drawn(libraries: dict[str, Any]) -> str:
    missing = [name for name, evaluators in libraries.items() if evaluators is None]
    drawn = [
        f"{name} {importlib.metadata.version(name.lower())}" for name in ["jax", *libraries] if name not in missing
    ]
    left_out = f" Not installed, and so not drawn: {', '.join(missing)}." if missing else ""
    return f"Drawn on CPU with {', '.join(drawn)}.{left_out}\n"


# --- What the probability means -----------------------------------------------------------------------------------


def _calibration() -> Figure:
    """The probability that costs least where a fraction of the labels is 1, for several losses."""
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    x, frequency = jnp.linspace(-9.0, 9.0, 3001), jnp.linspace(0.001, 0.999, 500)
    losses = (
        ("binary cross-entropy", GREEN, "-", BCE, {}),
        ("pos_weight=9", BLUE, "-", BCE, {"pos_weight": 9.0}),
        ("label_smoothing=0.2", BLUE, ":", BCE, {"label_smoothing": 0.2}),
        ("focal, gamma=2", ORANGE, "-", jaxbce.sigmoid_focal_loss, {}),
        ("focal, gamma=2, alpha=0.25", ORANGE, "--", jaxbce.sigmoid_focal_loss, {"alpha": 0.25}),
        ("asymmetric", PURPLE, "-", jaxbce.asymmetric_loss, {}),
    )
    for name, colour, line, loss, options in losses:
        cost_1, cost_0 = (loss(x, label, reduction="none", **options) for label in (1, 0))
        cost = frequency[:, None] * cost_1 + (1.0 - frequency[:, None]) * cost_0
        axes.plot(frequency, jax.nn.sigmoid(x[jnp.argmin(cost, axis=1)]), line, color=colour, label=name)
    axes.set(xlabel="frequency of label 1 among examples that look alike", ylabel="probability after training")
    axes.legend(fontsize=8)
    return figure


# --- Memory of many labels ----------------------------------------------------------------------------------------


def _memory() -> Figure:
    """Megabytes that value and gradients of a linear head need, read off compiled steps that are not run."""

    def usual(features: Any, kernel: Any, bias: Any, labels: Any) -> Any:
        return optax.sigmoid_binary_cross_entropy(features @ kernel + bias, labels).mean()

    def ours(features: Any, kernel: Any, bias: Any, positives: Any) -> Any:
        return jaxbce.linear_binary_cross_entropy(features, kernel, positives=positives, bias=bias)

    def megabytes(loss: Callable[..., Any], number: int, labels: jax.ShapeDtypeStruct) -> float:
        shapes = (BATCH, WIDTH), (WIDTH, number), (number,)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        step = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arrays, labels)
        return step.compile().memory_analysis().temp_size_in_bytes / 1e6

    numbers = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    dense = [megabytes(usual, n, jax.ShapeDtypeStruct((BATCH, n), jnp.float32)) for n in numbers]
    fused = [megabytes(ours, n, jax.ShapeDtypeStruct((BATCH, POSITIVES), jnp.int32)) for n in numbers]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, needed in (("features @ kernel, then optax", BLUE, dense), ("jaxbce", GREEN, fused)):
        axes.plot(numbers, needed, "o-", color=colour, label=name)
        above = {"textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{needed[-1]:,.0f} MB", (numbers[-1], needed[-1]), (0, 7), **above)
    axes.set(
        xscale="log", yscale="log", ylim=(1, 20_000), xlabel=f"labels, at batch {BATCH} and width {WIDTH}", ylabel="MB"
    )
    axes.legend()
    return figure
