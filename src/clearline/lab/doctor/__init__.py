"""What is wrong, where, and how sure we are: one examination of everything that is at hand."""

from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.examine import as_output, examine
from clearline.lab.doctor.finding import Check, Finding
from clearline.lab.doctor.verdict import Diagnosis

__all__ = ["Check", "Diagnosis", "Evidence", "Finding", "as_output", "examine"]
