"""Reports for people: one self-contained HTML file that reads well on a screen, a phone and paper."""

from clearline.lab.report.compared import compare_report
from clearline.lab.report.judged import doctor_report, judge_report
from clearline.lab.report.page import Figure, Report, Section, Table, render, write_report
from clearline.lab.report.recorded import trace_report
from clearline.lab.report.several import backends_report, peers_report

__all__ = [
    "Figure",
    "Report",
    "Section",
    "Table",
    "backends_report",
    "compare_report",
    "doctor_report",
    "judge_report",
    "peers_report",
    "render",
    "trace_report",
    "write_report",
]
