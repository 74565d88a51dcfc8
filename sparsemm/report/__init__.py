"""The report: one self-contained HTML page of a results folder, written once or served while a sweep runs."""

from sparsemm.report.page import PageOptions, build_page, write_report

__all__ = ["PageOptions", "build_page", "write_report"]
