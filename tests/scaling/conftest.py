"""One thread: the tests' matrices are tiny, and waiting for a second thread on a busy machine takes ages."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
