"""The data report."""

from aligngpt.reporting.data.page import load_facts, make_sections, report_data

__all__ = ["load_facts", "make_sections", "report_data"]
