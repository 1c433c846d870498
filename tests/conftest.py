"""Before any library starts its threads: small models gain nothing from several, and those that spin while they wait crawl
when another program has a core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
