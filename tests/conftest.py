"""Before any library starts its threads: small models gain nothing from several, and those that spin while they wait crawl
when another program has a core."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A test that is slow because the machine is busy has not failed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
