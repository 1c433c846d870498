"""Exceptions a user can act on: each message says what was wrong, where, and what would be right."""


class ClearlineError(Exception):
    """Base of every error a user can cause or fix; the command line prints it and exits with 2."""


class ConfigError(ClearlineError):
    """A configuration value is missing, unknown, contradictory or not supported."""


class CheckpointError(ClearlineError):
    """Model files are missing, unreadable, or contradict their configuration."""


class AudioError(ClearlineError):
    """An audio file or array cannot be used."""


class SessionError(ClearlineError):
    """A session was used out of order or given an input of the wrong shape."""


class BackendError(ClearlineError):
    """A backend is unknown or not installed."""
