"""Comparing two runs: the first divergence, its kind, and the evidence."""

from clearline.lab.compare.boundaries import ROUNDING
from clearline.lab.compare.relation import Match, Relation, relate
from clearline.lab.compare.run import compare_peer, compare_sides, describe
from clearline.lab.compare.verdict import Comparison, compare

__all__ = ["ROUNDING", "Comparison", "Match", "Relation", "compare", "compare_peer", "compare_sides", "describe", "relate"]
