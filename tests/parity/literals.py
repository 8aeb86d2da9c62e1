"""Figures that PyTorch is known by, on which both libraries agree; float32.

Its documentation gives none for cross-entropy: the examples there are drawn at random.
"""

from typing import Any

import numpy as np

# function, predictions, labels, quantity as in `differences`, value
LITERALS = (
    ("logits", 0.0, 1.0, "loss", 0.6931472),
    ("logits", 0.0, 0.0, "loss", 0.6931472),
    ("logits", 1.0, 1.0, "loss", 0.31326166),
    ("logits", 1.0, 0.0, "loss", 1.3132616),
    ("logits", -100.0, 1.0, "loss", 100.0),
    ("logits", 3e38, 0.0, "loss", 3e38),
    ("logits", 0.0, 1.0, "d_predictions", -0.5),
    ("logits", 0.0, 0.5, "d_predictions", 0.0),
    ("logits", -100.0, 1.0, "d_predictions", -1.0),
    ("logits", 2.0, 0.5, "d_labels", -2.0),
    ("logits", 0.0, 1.0, "d2_predictions", 0.25),
    ("probs", 0.5, 1.0, "loss", 0.6931472),
    ("probs", 0.0, 1.0, "loss", 100.0),
    ("probs", 1.0, 0.0, "loss", 100.0),
    ("probs", 0.0, 0.3, "loss", 30.0),
    ("probs", 0.0, 0.0, "loss", 0.0),
    ("probs", 1.0, 1.0, "loss", 0.0),
    ("probs", 1e-45, 1.0, "loss", 100.0),
    ("probs", 0.0, 1.0, "d_predictions", -1e12),
    ("probs", 1.0, 0.0, "d_predictions", 1e12),
    ("probs", 0.0, 0.5, "d_predictions", -5e11),
    ("probs", 0.5, 1.0, "d_predictions", -2.0),
    ("probs", 0.3, 1.0, "d2_predictions", 11.111111),
    ("probs", 0.0, 1.0, "d2_predictions", 1e24),
    ("probs", 1.0, 0.0, "d2_predictions", 1e24),
    ("probs", 0.5, 0.5, "d_labels", 0.0),
    ("classes", [0.0] * 10, 3, "loss", 2.3025851),
    ("classes", [1.0, 2.0, 3.0], 2, "loss", 0.40760598),
    ("classes", [1.0, 2.0, 3.0], -100, "loss", 0.0),
    ("classes", [1.0, 2.0, 3.0], [0.25, 0.25, 0.5], "loss", 1.1576059),
    ("classes", [[-100.0, 0.0], [1e4, -1e4]], [0, 1], "loss", [100.0, 2e4]),
    ("classes", [3e38, -np.inf], 0, "loss", 0.0),
    ("classes", [0.0, 0.0, 0.0, 0.0], 1, "d_predictions", [0.25, -0.75, 0.25, 0.25]),
    ("classes", [1.0, 2.0, 3.0], -100, "d_predictions", [0.0, 0.0, 0.0]),
    ("classes", [0.0, 0.0], [0.5, 1.0], "d_predictions", [0.25, -0.25]),
    ("classes", [0.0, -np.inf], 0, "d_predictions", [0.0, 0.0]),
    ("classes", [0.0, 0.0], [1.0, 0.0], "d_labels", [0.6931472, 0.6931472]),
    ("classes", [0.0, 0.0, 0.0, 0.0], 1, "d2_predictions", [0.1875, 0.1875, 0.1875, 0.1875]),
)


def arguments(predictions: Any, labels: Any) -> dict[str, np.ndarray]:
    """float32 arrays; integers, which are class indices, stay integers."""
    labels = np.array(labels)
    return {
        "predictions": np.array(predictions, np.float32),
        "labels": labels if labels.dtype.kind == "i" else labels.astype(np.float32),
    }
