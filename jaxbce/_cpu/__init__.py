"""Programs tuned for XLA on CPU, each beside the plain formula that it computes.

A loss is defined by its formula, and so is every derivative but the first slope; no other platform runs what stands
here. Without it rounding and time on CPU would change, and nothing else. The figures are of two cores and jaxlib
0.10.2.
"""

from jaxbce._cpu._binary import bce as bce
from jaxbce._cpu._binary import bce_with_logits as bce_with_logits
from jaxbce._cpu._chunks import bits as bits
from jaxbce._cpu._chunks import floats as floats
from jaxbce._cpu._chunks import take_as_bits as take_as_bits
from jaxbce._cpu._entries import countable as countable
from jaxbce._cpu._focal import asymmetric as asymmetric
from jaxbce._cpu._focal import focal as focal
from jaxbce._cpu._numerics import differentiable_guard as differentiable_guard
from jaxbce._cpu._softmax import TwoPasses as TwoPasses
