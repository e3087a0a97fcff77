"""A disk that is full or slow on demand, for any Python that has this folder on its PYTHONPATH.

Full: while the file CHAOS_FULL_FLAG exists, `os.write` and `os.fsync` fail with ENOSPC for files below the
folder CHAOS_FULL_BELOW, as they would on a full disk or a used-up quota.

Slow: while the folder CHAOS_HOLD exists, a run can bring its result to the disk only if it is among the first
N to do so, N being the text of `allowed` in there. So a sweep does not end before its faults have happened,
however fast the machine is.
"""

import errno
import fcntl
import os
import time

_write, _fsync = os.write, os.fsync
_below, _flag = os.environ.get("CHAOS_FULL_BELOW", ""), os.environ.get("CHAOS_FULL_FLAG", "")
_hold = os.environ.get("CHAOS_HOLD", "")
HOLD_POLL_S = 0.05


def _path(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _check(descriptor):
    if _flag and os.path.exists(_flag) and (path := _path(descriptor)).startswith(_below):
        raise OSError(errno.ENOSPC, "No space left on device", path)


def _may_finish(key):
    try:
        folder = os.open(_hold, os.O_RDONLY)
    except FileNotFoundError:  # nothing is held back
        return True
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two runs do not take the same place
        with open(os.path.join(_hold, "allowed")) as allowed:
            number = int(allowed.read())
        places = [name for name in os.listdir(_hold) if "allowed" not in name]
        if key not in places and len(places) >= number:
            return False
        os.makedirs(os.path.join(_hold, key), exist_ok=True)
        return True
    finally:
        os.close(folder)


def _wait_for_a_place(path):
    """`path`: RUN/ATTEMPT/.result.json.THREAD.tmp"""
    folder, name = os.path.split(path)
    if not (_hold and name.startswith(".result.json.")):
        return
    with open(path) as result:
        if '"status": "finished"' not in result.read():
            return
    key = os.path.basename(os.path.dirname(folder))
    while not _may_finish(key):
        time.sleep(HOLD_POLL_S)


def write(descriptor, data):
    _check(descriptor)
    return _write(descriptor, data)


def fsync(descriptor):
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    _wait_for_a_place(_path(number))
    _check(number)
    return _fsync(number)


os.write, os.fsync = write, fsync
