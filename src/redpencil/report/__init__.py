"""The report: reads a run folder, writes one self-contained page. Never imports torch."""

from redpencil.report.page import build_report

__all__ = ["build_report"]
