"""Evaluation of a trained network: likelihood bounds on held-out text."""

from scaling.evaluation.bound import Bound, estimate_bound

__all__ = ["Bound", "estimate_bound"]
