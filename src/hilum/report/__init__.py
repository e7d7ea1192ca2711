"""The report: a run directory becomes one HTML file that needs no network."""

from hilum.report.page import write_report

__all__ = ["write_report"]
