"""The report of a run: quality gates, pictures, charts, and the self-contained pages: report, motion explorer, data set."""

from mvgan.report.page import build_report


__all__ = ["build_report"]
