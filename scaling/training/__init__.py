"""Training one run: the loop, its optimizer, its checkpoints."""

from scaling.training.loop import RunStatus, TrainResult, train

__all__ = ["RunStatus", "TrainResult", "train"]
