"""Training one run: the loop, its optimizer, its checkpoints, and the network of a finished one."""

from scaling.training.finished import FinishedRun, load_run, read_spec
from scaling.training.loop import train
from scaling.training.result import RunStatus, TrainResult

__all__ = ["FinishedRun", "RunStatus", "TrainResult", "load_run", "read_spec", "train"]
