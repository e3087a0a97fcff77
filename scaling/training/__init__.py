"""Training one run: the loop, its optimizer, its checkpoints, and the network of a finished one."""

from scaling.training.finished import FinishedRun, load_run, read_spec
from scaling.training.loop import RunStatus, TrainResult, train

__all__ = ["FinishedRun", "RunStatus", "TrainResult", "load_run", "read_spec", "train"]
