"""The report of a run: one self-contained HTML file, made from its records alone. Imports no torch."""

from danlu.report.page import build_report

__all__ = ["build_report"]
