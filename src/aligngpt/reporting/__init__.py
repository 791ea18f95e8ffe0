"""Reporting: self-contained pages about a run and about scored pairs, made to be looked at."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("the page's charts need matplotlib: install it with `pip install 'aligngpt[report]'`") from error

from aligngpt.reporting.data.page import DataReport, data_report
from aligngpt.reporting.run.page import report

__all__ = ["DataReport", "data_report", "report"]
