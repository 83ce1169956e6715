"""The report of a run: quality gates, pictures, charts, and the self-contained page `report.html`."""

from mvgan.report.page import build_report


__all__ = ["build_report"]
