"""Before any library starts its threads: small models gain nothing from several, and those that spin while they wait crawl
when another program has a core."""

import os
from importlib.util import find_spec

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A test that is slow because the machine is busy has not failed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> None:
    """On a card, too, a backend that is named without a float type is compared with the goldens in float32."""
    if find_spec("torch") is not None and find_spec("torch.version") is not None:
        from clearline.backends import torch_run

        torch_run.OWN_DTYPES.clear()
