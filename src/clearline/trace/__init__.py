"""Traces: what crossed the boundaries of a session, frame by frame."""

from clearline.trace.read import read_trace, write_trace
from clearline.trace.record import FileRecorder, MemoryRecorder, Recorder
from clearline.trace.schema import BOUNDARIES, CLOCK, LOGITS, PCM, TOKENS, Boundary, Trace

__all__ = [
    "BOUNDARIES",
    "CLOCK",
    "LOGITS",
    "PCM",
    "TOKENS",
    "Boundary",
    "FileRecorder",
    "MemoryRecorder",
    "Recorder",
    "Trace",
    "read_trace",
    "write_trace",
]
