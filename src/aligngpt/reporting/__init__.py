"""Reports: self-contained HTML pages about data, runs and benchmark results."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("reports need matplotlib: install it with `pip install 'aligngpt[report]'`") from error

from aligngpt.reporting.benchmarks.comparison import write_comparison
from aligngpt.reporting.benchmarks.page import report_eval
from aligngpt.reporting.data.page import DataReport, report_data
from aligngpt.reporting.run.page import report_run

__all__ = ["DataReport", "report_data", "report_eval", "report_run", "write_comparison"]
