"""One attempt at one run, on a worker: training, evaluation and the journal beside it."""
