"""Interfaces to a model: the terminal chat."""
