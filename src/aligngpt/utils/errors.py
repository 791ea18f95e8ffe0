"""Errors with an exit code of their own on the command line."""


class ArgumentError(ValueError):
    """Arguments that are missing or contradict one another: wrong usage, exit code 2."""
