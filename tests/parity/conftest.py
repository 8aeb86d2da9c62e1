"""Doctests are collected from every module; two do not import without PyTorch, and `test_live` speaks for them."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["record.py", "reference.py"]
