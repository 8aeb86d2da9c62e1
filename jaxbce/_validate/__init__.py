"""Checks that run in Python once per call: they convert arguments, refuse them and say why."""
