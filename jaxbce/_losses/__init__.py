"""The losses, one file for each family: signature, docstring, formula, derivative rules. Open this folder first."""
