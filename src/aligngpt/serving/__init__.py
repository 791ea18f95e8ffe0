"""Interfaces to a model: the terminal chat, and the model of lmms-eval."""
