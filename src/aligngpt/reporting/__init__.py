"""Reporting: one self-contained page about a run, made to be looked at."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("the page's charts need matplotlib: install it with `pip install 'aligngpt[report]'`") from error

from aligngpt.reporting.page import report

__all__ = ["report"]
