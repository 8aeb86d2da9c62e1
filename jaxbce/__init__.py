"""Binary cross-entropy for JAX: exact, strict, fast.

Two classes, or many labels that are on or off independently
    `binary_cross_entropy_with_logits`: of logits, the form to train with.
    `binary_cross_entropy`: of probabilities.
    `sigmoid_focal_loss`: easy examples count less.
    `asymmetric_loss`: the same with an exponent for each kind of label, and a margin for the negatives.

Mutually exclusive classes
    `cross_entropy`: of class indices or class probabilities.

Extreme multi-label: labels by the hundred thousand
    `sparse_binary_cross_entropy_with_logits`: the positives are given by their indices.
    `linear_binary_cross_entropy`: of features and a kernel, where the logits do not fit in memory.

All pairs of two batches
    `sigmoid_contrastive_loss`: SigLIP's, whose B² logits never exist; over a ring of devices too.

Generative adversarial networks
    `gan_discriminator_loss`, `gan_generator_loss`.

Weights from data
    `pos_weight_from_labels`: negatives per positive.
    `class_weight_from_counts`: inverse frequency, or effective number.

Criteria: a loss with its options bound, as a pytree
    `BCEWithLogitsLoss`, `BCELoss`, `CrossEntropyLoss`.

Accumulating
    `Average`: the mean that stays right over unequal batches, masks, gradient accumulation and devices.

All losses are pure functions for use inside `jit`, `grad`, `vmap`, `scan`, `remat` and `shard_map`, or outside them.
They share the meaning of their arguments. A loss that departs from it says so: `cross_entropy` takes class indices too,
smooths by s/C, has masks and axes without its class axis, and divides by Σ class weight;
`sigmoid_contrastive_loss` divides by the B examples; `linear_binary_cross_entropy` takes labels `[B, L]` alone, has
neither `where` nor `axis`, and a loss per example under "none".

Predictions (`logits`, `probs`)
    Floating; arrays, Python floats or nested lists of them. Computation and result are in at least float32:
    bfloat16 and float16 predictions give a float32 loss and gradients of their own dtype, float64 stays float64.
    No other argument decides the dtype, and the result is never weakly typed.

`labels`
    Of the shape of the predictions, or a scalar: nothing else is broadcast. Bool, integer or floating, in [0, 1];
    soft labels are welcome everywhere.

`pos_weight`, `weight`
    Finite and ≥ 0. `pos_weight` multiplies the positive part of the loss, the part that carries the label y; `weight`
    multiplies the whole. Both broadcast to the shape of the predictions, right-aligned, and never enlarge it: `[C]`
    is a weight per class of `[N, C]`, `[N, 1]` one per example. Losses are differentiable with respect to both. A
    `weight` of 0 leaves no trace even of an infinite loss, in value or in the gradient of the predictions; under "mean"
    its entry still counts.

`label_smoothing`
    s in [0, 1]: labels become y·(1 - s) + s/2, as in Keras.

`where`
    Bool mask that broadcasts to the shape of the predictions. Masked entries may hold anything, NaN and inf
    included: they reach neither value nor derivatives, and no check looks at them. They read 0 under "none".

`axis`, `reduction`
    "none": the loss of each entry. "sum": Σ wℓ. "mean": Σ wℓ / number of included entries, as PyTorch has it: not
    divided by Σ w. "weighted_mean": Σ wℓ / Σ w. `axis` names the axes to reduce; None is all of them. Where
    everything is masked the result is 0 with zero gradient; the mean of an empty array is NaN, its sum 0.

Refusals
    Wrong dtypes are a TypeError; wrong shapes, unknown options and, wherever values can be read, values outside
    their domain are a ValueError. Under a transform no value can be read: a value outside its domain then makes the
    loss and its gradients NaN, and `jax.experimental.checkify.checkify(jax.jit(f), errors=checkify.user_checks)`
    makes it an error that names the argument. A program that is not checkified is compiled without the checks.

Options such as `reduction` are Python values: close over them (`functools.partial`) before `jit` or `vmap`.
"""

from jaxbce._average import Average as Average
from jaxbce._class_weights import class_weight_from_counts as class_weight_from_counts
from jaxbce._class_weights import pos_weight_from_labels as pos_weight_from_labels
from jaxbce._criteria import BCELoss as BCELoss
from jaxbce._criteria import BCEWithLogitsLoss as BCEWithLogitsLoss
from jaxbce._criteria import CrossEntropyLoss as CrossEntropyLoss
from jaxbce._losses.adversarial import gan_discriminator_loss as gan_discriminator_loss
from jaxbce._losses.adversarial import gan_generator_loss as gan_generator_loss
from jaxbce._losses.binary import binary_cross_entropy as binary_cross_entropy
from jaxbce._losses.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from jaxbce._losses.categorical import cross_entropy as cross_entropy
from jaxbce._losses.contrastive import sigmoid_contrastive_loss as sigmoid_contrastive_loss
from jaxbce._losses.focal import asymmetric_loss as asymmetric_loss
from jaxbce._losses.focal import sigmoid_focal_loss as sigmoid_focal_loss
from jaxbce._losses.linear import linear_binary_cross_entropy as linear_binary_cross_entropy
from jaxbce._losses.sparse import sparse_binary_cross_entropy_with_logits as sparse_binary_cross_entropy_with_logits

__version__ = "0.2.0.dev0"
