"""Generate handwritten digits with a small generative adversarial network, and plot why its loss does not saturate.

The data are scikit-learn's digits of 8 by 8 pixels. Generator and discriminator have two hidden layers each, in Flax
and Optax. A classifier trained on real digits scores the generated images, beside held-out real images and images of
the untrained generator. The plot shows samples, both losses, and the gradient with respect to the logit of a fake. In
the minimax game (`--saturating`) this gradient vanishes if the discriminator recognises the fake. Both forms learn
here, because label smoothing and dropout keep the discriminator's logits from saturating.

Run it with: python examples/gan.py
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import pairwise_distances_argmin_min, roc_auc_score
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from jaxbce import gan_discriminator_loss, gan_generator_loss

BATCH_SIZE = 64
NOISE = 32
# Smooth the label of real images to 1 - 0.2 / 2 = 0.9, so that the discriminator does not saturate.
LABEL_SMOOTHING = 0.2
# Compute the optimal D for indistinguishable fakes: half of the labels are 0.9 and half 0, so D = 0.45.
EQUILIBRIUM = (1 - LABEL_SMOOTHING / 2) / 2


class Generator(nnx.Module):
    """A network from noise to the 64 pixels of an image, in [0, 1]."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(NOISE, 128, rngs=rngs)
        self.second = nnx.Linear(128, 128, rngs=rngs)
        self.output = nnx.Linear(128, 64, rngs=rngs)

    def __call__(self, noise):
        """Generate images of shape [N, 64]."""
        return nnx.sigmoid(self.output(nnx.relu(self.second(nnx.relu(self.first(noise))))))


class Discriminator(nnx.Module):
    """A network from an image to the logit of "real". Dropout reduces overfitting to the real images."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.second = nnx.Linear(128, 128, rngs=rngs)
        self.output = nnx.Linear(128, 1, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, images):
        """Compute logits of shape [N]."""
        hidden = self.dropout(nnx.leaky_relu(self.first(images), 0.2))
        return self.output(self.dropout(nnx.leaky_relu(self.second(hidden), 0.2)))[:, 0]


def discriminator_loss(discriminator, real, fake):
    """Compute the discriminator's loss on real and fake images."""
    return gan_discriminator_loss(discriminator(real), discriminator(fake), label_smoothing=LABEL_SMOOTHING)


def generator_loss(generator, discriminator, noise, saturating):
    """Compute the generator's loss on fakes from noise."""
    return gan_generator_loss(discriminator(generator(noise)), saturating=saturating)


@functools.partial(nnx.jit, static_argnames="saturating")
def train_step(generator, discriminator, generator_optimizer, discriminator_optimizer, real, noise, saturating):
    """Update each network once, in place; return both losses, each before its own update."""
    loss_d, grads = nnx.value_and_grad(discriminator_loss)(discriminator, real, generator(noise))
    discriminator_optimizer.update(discriminator, grads)
    loss_g, grads = nnx.value_and_grad(generator_loss)(generator, discriminator, noise, saturating)
    generator_optimizer.update(generator, grads)
    return jnp.stack([loss_d, loss_g])


def train(generator, discriminator, images, steps: int, seed: int, saturating: bool) -> np.ndarray:
    """Train both networks in place; return the losses of discriminator and generator, [steps, 2]."""
    rng = np.random.default_rng(seed)
    optimizers = [
        nnx.Optimizer(network, optax.adam(1e-3, b1=0.5), wrt=nnx.Param) for network in (generator, discriminator)
    ]
    # Flatten the networks once: flattening them at every step takes as long as the step itself.
    step = nnx.cached_partial(train_step, generator, discriminator, *optimizers)
    losses = []
    for _ in tqdm(range(steps), desc="training", unit="step"):
        real = images[rng.integers(0, len(images), BATCH_SIZE)]
        losses.append(step(real, sample_noise(rng, BATCH_SIZE), saturating=saturating))
    discriminator.eval()  # turns dropout off
    return np.asarray(losses)


def sample_noise(rng: np.random.Generator, number: int) -> np.ndarray:
    """Draw the noise, the input of the generator."""
    return rng.normal(size=(number, NOISE)).astype(np.float32)


def score(name: str, images, discriminator, classifier, training_images) -> None:
    """Score images, and print a row of the table."""
    mean_d = float(nnx.sigmoid(discriminator(images)).mean())
    votes = classifier.predict_proba(images)
    digits = votes.argmax(axis=1)[votes.max(axis=1) > 0.5]
    frequent = np.bincount(digits, minlength=10) >= 0.01 * len(images)
    _, nearest = pairwise_distances_argmin_min(images, training_images)
    print(f"{name:<20}{mean_d:8.3f}{len(digits) / len(images):12.1%}{frequent.sum():8}{np.median(nearest):10.2f}")


def sheet(images) -> np.ndarray:
    """Tile images in rows of twelve."""
    framed = np.pad(images.reshape(-1, 12, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return framed.transpose(0, 2, 1, 3).reshape(-1, 120)


def draw(generated, real, losses, saturating: bool, path: Path) -> None:
    """Draw samples above real digits on the left; draw the losses and the gradients of both forms on the right."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    samples, curves = figure.subfigures(1, 2)
    panels = zip(
        samples.subplots(2, 1, height_ratios=(3, 1)), ("Generated", "Real"), (generated[:108], real[:36]), strict=True
    )
    for axes, title, images in panels:
        axes.imshow(sheet(images), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title)
        axes.axis("off")

    training, gradient = curves.subplots(2, 1)
    logit = np.log(EQUILIBRIUM / (1 - EQUILIBRIUM)).astype(np.float32)
    at_equilibrium = (
        gan_discriminator_loss(logit, logit, label_smoothing=LABEL_SMOOTHING),
        gan_generator_loss(logit, saturating=saturating),
    )
    window = np.full(min(100, len(losses)), 1 / min(100, len(losses)))
    for i, name in enumerate(("discriminator", "generator")):
        smoothed = np.convolve(losses[:, i], window, "valid")
        training.plot(np.arange(len(window), len(losses) + 1), smoothed, f"C{i}", label=name)
        training.axhline(
            float(at_equilibrium[i]), color=f"C{i}", linestyle=":", label="optimum for indistinguishable fakes"
        )
    training.set(title="Training", xlabel="step", ylabel=f"loss, mean of {len(window)} steps")

    logits = jnp.linspace(-12, 12, 481)
    for form, name in ((False, "-log D, the default"), (True, "log(1 - D), saturating=True")):
        slope = jax.vmap(jax.grad(functools.partial(gan_generator_loss, saturating=form)))(logits)
        gradient.plot(logits, jnp.abs(slope), label=name)
    gradient.set(
        title="Gradient of the generator's loss for one fake",
        xlabel="logit of the fake (left: recognised as fake, right: classified as real)",
        ylabel="| ∂ loss / ∂ logit |",
        yscale="log",
    )
    for axes in (training, gradient):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train both networks, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--saturating", action="store_true", help="train the generator in the minimax game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot")
    options = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    real, held_out, real_digits, _ = train_test_split(
        images, digits, test_size=0.3, stratify=digits, random_state=options.seed
    )
    classifier = ExtraTreesClassifier(100, random_state=options.seed).fit(real, real_digits)

    generator, discriminator = Generator(nnx.Rngs(options.seed)), Discriminator(nnx.Rngs(options.seed + 1))
    noise = sample_noise(np.random.default_rng(options.seed + 1), len(held_out))
    untrained = np.asarray(generator(noise))
    losses = train(generator, discriminator, real, options.steps, options.seed, options.saturating)
    generated = np.asarray(generator(noise))

    last = losses[-100:].mean(axis=0)
    print(f"losses at the end: discriminator {last[0]:.3f}, generator {last[1]:.3f}")
    print(f"{'images':<20}{'mean D':>8}{'recognised':>12}{'digits':>8}{'nearest':>10}")
    rows = {"real, held out": held_out, "generated": generated, "before training": untrained}
    for name, images_of_row in rows.items():
        score(name, images_of_row, discriminator, classifier, real)
    print(f"mean D: the optimum for indistinguishable fakes is {EQUILIBRIUM:.2f}, since the labels are 0.9 and 0")
    print("recognised: more than half of the classifier's 100 trees agree on a digit")
    print("digits: number of digits that make up at least 1 % of the images")
    print("nearest: median distance to the nearest training image, 0 for a copy")
    scores = np.concatenate([discriminator(held_out), discriminator(generated)])
    auc = roc_auc_score(np.arange(len(scores)) < len(held_out), scores)
    print(f"AUC of the discriminator, real against generated images: {auc:.1%} (chance: 50 %)")
    slopes = [abs(float(jax.grad(gan_generator_loss)(-10.0, saturating=form))) for form in (False, True)]
    print(f"gradient of a fake at logit -10: {slopes[0]:.2e}, with saturating=True {slopes[1]:.2e}")

    options.out.mkdir(parents=True, exist_ok=True)
    draw(generated, held_out, losses, options.saturating, options.out / "gan.png")
    print(f"plot: {options.out / 'gan.png'}")


if __name__ == "__main__":
    main()
