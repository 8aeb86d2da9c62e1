"""Programs tuned for XLA on CPU, each beside the plain formula that it computes.

A loss is defined by its formula, and so is every derivative but the first slope; no other platform runs what stands
here. To run the plain formulas in their place changes rounding and time on CPU, and nothing else. The figures are of
two cores and jaxlib 0.10.2.
"""
