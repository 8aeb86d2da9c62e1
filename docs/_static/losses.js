// The losses of one entry and their derivatives by the logit: mathematics alone, no page.
//
// Each takes a logit x, a label y in [0, 1] and its parameters, and gives { loss, gradient }. The formulas are those of
// the Python functions of the same names; tests/test_docs.py holds one to the other. A classic script, because browsers
// load no module from a file: `losses` is a global there, and `module.exports` under Node.

const losses = (() => {
  "use strict";

  // Neither overflows, and neither cancels, at any x.
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

  const smooth = (y, labelSmoothing) => y * (1 - labelSmoothing) + labelSmoothing / 2;

  // u^γ·ℓ with its derivative, where u' = r·u. At u = 0 only γ = 0 leaves anything.
  const modulated = (u, r, gamma, loss, gradient) => {
    const power = Math.pow(u, gamma);
    return { loss: power * loss, gradient: power * (gamma * r * loss + gradient) };
  };

  const binaryCrossEntropyWithLogits = (x, y, { posWeight = 1, labelSmoothing = 0 } = {}) => {
    const positive = posWeight * smooth(y, labelSmoothing);
    const negative = 1 - smooth(y, labelSmoothing);
    return {
      loss: positive * softplus(-x) + negative * softplus(x),
      gradient: negative * sigmoid(x) - positive * sigmoid(-x),
    };
  };

  // alpha null: both labels weigh 1.
  const sigmoidFocalLoss = (x, y, { gamma = 2, alpha = null, labelSmoothing = 0 } = {}) => {
    const label = smooth(y, labelSmoothing);
    const p = sigmoid(x);
    const q = sigmoid(-x);
    const u = label * q + (1 - label) * p;
    const share = alpha === null ? 1 : alpha * label + (1 - alpha) * (1 - label);
    const plain = binaryCrossEntropyWithLogits(x, label);
    const { loss, gradient } = modulated(u, ((1 - 2 * label) * p * q) / u, gamma, plain.loss, plain.gradient);
    return { loss: share * loss, gradient: share * gradient };
  };

  const asymmetricLoss = (x, y, { gammaPos = 1, gammaNeg = 4, margin = 0.05, labelSmoothing = 0 } = {}) => {
    const label = smooth(y, labelSmoothing);
    const p = sigmoid(x);
    const q = sigmoid(-x);
    const positive = modulated(q, -p, gammaPos, softplus(-x), -q);
    const u = margin === 0 ? p : Math.max(p - margin, 0);
    const loss = margin === 0 ? softplus(x) : -Math.log1p(-u);
    const negative =
      u === 0 ? { loss: 0, gradient: 0 } : modulated(u, (p * q) / u, gammaNeg, loss, (p * q) / (q + margin));
    return {
      loss: label * positive.loss + (1 - label) * negative.loss,
      gradient: label * positive.gradient + (1 - label) * negative.gradient,
    };
  };

  return { sigmoid, binaryCrossEntropyWithLogits, sigmoidFocalLoss, asymmetricLoss };
})();

if (typeof module !== "undefined") module.exports = losses;
