"""Traces: what crossed the boundaries of a session, frame by frame."""

from clearline.trace.record import TRACE_VERSION, Recorder, read_trace

__all__ = ["TRACE_VERSION", "Recorder", "read_trace"]
