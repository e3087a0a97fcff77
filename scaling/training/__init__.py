"""Training one run: the loop, its optimizer, its checkpoints."""

from scaling.training.loop import Result, RunStatus, train

__all__ = ["Result", "RunStatus", "train"]
