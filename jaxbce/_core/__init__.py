"""Traced mathematics that the losses share; it knows no error of a user."""
