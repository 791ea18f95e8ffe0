"""Talking to a model: one session, and the terminal around it."""
