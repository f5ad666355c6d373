"""The report of a run: one offline HTML page. Imports no torch; the gallery does."""

from vtp_core.report.page import build_report

__all__ = ["build_report"]
