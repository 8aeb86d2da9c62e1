"""Train a model with a hundred thousand labels, without materialising its logits.

The data are source code: the Python files of the standard library and of the packages that the examples depend on,
millions of words (identifiers, keywords, words of comments), with no download. From the eight words before a position
the model predicts the set of the eight words after it. Each of the most frequent hundred thousand words is a label, and
at most eight labels are positive. One file in ten is held out for the test.

The model is an embedding of each word, the mean over the eight words, and a linear head. A naive step materialises
several arrays [batch, labels]: logits, dense labels and their gradients. `linear_binary_cross_entropy` takes the
indices of the positives and the kernel of the head. The script prints the temporary memory of both compiled steps, and
compares it with a budget. The test ranks all labels chunk by chunk. Precision at k is the share of the k top-ranked
words that do follow. The first row of the table ranks words by frequency alone: the head starts there, with the
log-odds of each word as its bias.

Run it with: python examples/extreme_labels.py
"""

import argparse
import collections
import functools
import re
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxbce import linear_binary_cross_entropy

PACKAGES = ("flax", "jax", "matplotlib", "optax", "sklearn")
BUDGET = 64e6
"""The budget of a step's temporary memory, in bytes."""
WINDOW = 8
CHUNK = 4096
"""The number of labels that `top` ranks at a time."""


def read_words(packages):
    """Yield the words of each file of the standard library and the packages."""
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    files += [path for name in packages for path in sorted((Path(paths["purelib"]) / name).rglob("*.py"))]
    for path in tqdm(files, desc="reading", unit="file"):
        yield re.findall(r"[^\W\d]\w+", path.read_text(encoding="utf-8", errors="ignore"))


def encode(documents, labels: int):
    """Encode words as indices in order of frequency, -1 for rare words; return the frequencies too."""
    counts = collections.Counter(word for words in documents for word in words)
    common = counts.most_common(labels)
    index = {word: i for i, (word, _) in enumerate(common)}
    encoded = [np.array([index.get(word, -1) for word in words], np.int32) for words in documents]
    return encoded, np.array([count for _, count in common]) / counts.total()


def windows(documents):
    """Concatenate the documents; return the words, and the positions with full windows inside their document."""
    words = np.concatenate(documents)
    ends = np.cumsum([len(document) for document in documents])
    positions = [np.arange(end - len(d) + WINDOW, end - WINDOW + 1) for d, end in zip(documents, ends, strict=True)]
    return words, np.concatenate(positions)


def gather_windows(words, positions):
    """Gather the windows before and after the positions, [batch, window] each."""
    offsets = np.arange(WINDOW)
    return words[positions[:, None] - 1 - offsets], words[positions[:, None] + offsets]


def embed(params, context):
    """Compute the mean embedding of the known words of a context."""
    known = context >= 0
    vectors = params["embedding"][jnp.maximum(context, 0)] * known[..., None]
    return vectors.sum(1) / jnp.maximum(known.sum(1, keepdims=True), 1)


def fused_loss(params, context, positives):
    """Compute the mean over examples of the sum over labels, without dense logits or labels."""
    features = embed(params, context)
    total = linear_binary_cross_entropy(
        features, params["kernel"], positives=positives, bias=params["bias"], reduction="sum"
    )
    return total / len(context)


def naive_loss(params, context, positives):
    """Compute the same loss from dense logits and labels, [batch, labels]."""
    logits = embed(params, context) @ params["kernel"] + params["bias"]
    batch, labels = logits.shape
    indices = jnp.where(positives < 0, labels, positives)
    dense = jnp.zeros((batch, labels)).at[jnp.arange(batch)[:, None], indices].set(1.0, mode="drop")
    return optax.sigmoid_binary_cross_entropy(logits, dense).sum() / batch


def step(loss, optimizer, params, state, context, positives):
    """Update the parameters on one batch."""
    value, gradient = jax.value_and_grad(loss)(params, context, positives)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


@functools.partial(jax.jit, static_argnames="k")
def top(features, kernel, bias, k: int):
    """Find the indices of the k highest logits, chunk by chunk; the bias has shape [1, labels]."""
    labels = kernel.shape[1]
    size = min(CHUNK, labels)

    def chunk(best, start):
        # Shift the last chunk back to a full size, and mask its overlap with the chunk before.
        first = jnp.minimum(start, labels - size)
        index = first + jnp.arange(size)
        part = jax.lax.dynamic_slice_in_dim(kernel, first, size, 1)
        logits = features @ part + jax.lax.dynamic_slice_in_dim(bias, first, size, 1)
        scores, positions = jax.lax.top_k(jnp.where(index >= start, logits, -jnp.inf), k)
        scores, indices = (jnp.concatenate(two, 1) for two in zip(best, (scores, index[positions]), strict=True))
        scores, positions = jax.lax.top_k(scores, k)
        return (scores, jnp.take_along_axis(indices, positions, 1)), None

    empty = jnp.full((len(features), k), -jnp.inf), jnp.full((len(features), k), -1)
    (_, indices), _ = jax.lax.scan(chunk, empty, jnp.arange(0, labels, size))
    return indices


def precision(found, positives) -> tuple[float, float]:
    """Compute precision at 1 and at 5."""
    hits = (found[:, :, None] == positives[:, None, :]).any(-1)
    return hits[:, 0].mean(), hits[:, :5].mean()


def memory(compiled) -> int:
    """Return the temporary memory of a compiled step, in bytes."""
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    """Train the model, and print precision and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tested", type=int, default=5000, help="number of positions in the test")
    parser.add_argument("--packages", nargs="*", default=PACKAGES, help="packages to read beside the standard library")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    documents, frequency = encode(list(read_words(options.packages)), options.labels)
    labels = len(frequency)
    documents = [document for document in documents if len(document) >= 2 * WINDOW]
    held_out = rng.random(len(documents)) < 0.1
    train_words, train_positions = windows([d for d, out in zip(documents, held_out, strict=True) if not out])
    test_words, test_positions = windows([d for d, out in zip(documents, held_out, strict=True) if out])
    test_context, test_positives = gather_windows(test_words, rng.choice(test_positions, options.tested))

    chance = 1 - (1 - frequency) ** WINDOW
    embedding = rng.normal(0, 1, (labels, options.width))
    params = {
        "embedding": jnp.asarray(embedding, jnp.float32),
        "kernel": jnp.zeros((options.width, labels)),
        "bias": jnp.asarray(np.log(chance / (1 - chance)), jnp.float32),
    }
    optimizer = optax.adam(3e-2)
    state = optimizer.init(params)
    batch = [jax.ShapeDtypeStruct((options.batch, WINDOW), jnp.int32)] * 2
    compiled = {
        name: jax.jit(functools.partial(step, loss, optimizer), donate_argnums=(0, 1)).lower(params, state, *batch)
        for name, loss in (("naive", naive_loss), ("fused", fused_loss))
    }
    compiled = {name: lowered.compile() for name, lowered in compiled.items()}

    def scores(params):
        found = [
            top(embed(params, context), params["kernel"], params["bias"][None], 5)
            for context in np.array_split(test_context, max(1, options.tested // 500))
        ]
        return precision(np.concatenate(found), test_positives)

    rows = [("most frequent words", *scores(params))]
    losses = []
    for _ in (progress := tqdm(range(options.steps), desc="training", unit="step")):
        context, positives = gather_windows(train_words, rng.choice(train_positions, options.batch))
        params, state, loss = compiled["fused"](params, state, context, positives)
        losses.append(float(loss))
        progress.set_postfix(loss=f"{losses[-1]:.2f}")
    rows.append(("trained", *scores(params)))

    print(f"{len(train_words) + len(test_words)} words of {len(documents)} files; {labels} labels")
    print(f"loss of an example: {np.mean(losses[:10]):.2f} at first, {np.mean(losses[-10:]):.2f} at the end")
    print(f"{'':<22}{'precision@1':>12}{'precision@5':>12}")
    for name, first, fifth in rows:
        print(f"{name:<22}{first:12.3f}{fifth:12.3f}")
    print(f"memory of a step beside parameters and batch; the budget is {BUDGET / 1e6:.0f} MB")
    for name in ("naive", "fused"):
        needed = memory(compiled[name])
        print(f"{name:<22}{needed / 1e6:9.1f} MB  {'fits' if needed <= BUDGET else 'does not fit'}")


if __name__ == "__main__":
    main()
