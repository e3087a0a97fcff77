"""Makes the disk full, while a flag file exists, for any Python that has this folder on its PYTHONPATH.

`os.write` and `os.fsync` then fail with ENOSPC for files below the folder named by CHAOS_FULL_BELOW, as they
would on a full disk or a used-up quota.
"""

import errno
import os

_write, _fsync = os.write, os.fsync
_below, _flag = os.environ.get("CHAOS_FULL_BELOW", ""), os.environ.get("CHAOS_FULL_FLAG", "")


def _check(descriptor):
    if not (_flag and os.path.exists(_flag)):
        return
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return
    if path.startswith(_below):
        raise OSError(errno.ENOSPC, "No space left on device", path)


def write(descriptor, data):
    _check(descriptor)
    return _write(descriptor, data)


def fsync(descriptor):
    _check(descriptor if isinstance(descriptor, int) else descriptor.fileno())
    return _fsync(descriptor)


os.write, os.fsync = write, fsync
