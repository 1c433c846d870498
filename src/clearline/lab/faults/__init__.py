"""The fault zoo: ways to break a conversation on purpose, as others broke theirs, and to see whether the doctor finds out."""

from clearline.lab.faults.rig import Rig, intact, run
from clearline.lab.faults.zoo import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "Rig", "intact", "run"]
