"""Without the packages of the extra `server` there is nothing to test here."""

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("uvicorn") and importlib.util.find_spec("sphn") else ["test_*.py"]


@pytest.fixture(autouse=True)
def no_engine_is_left():
    """Every engine that was opened has been closed, whatever happened in between."""
    from helpers.serving import Halver, until

    yield
    until(lambda: Halver.open == 0)
