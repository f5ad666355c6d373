"""The errors that end a command, each with its exit code. Imports no torch.

A message names the thing, the place and the next step, on one line. The command line prints it without a
traceback (``--debug`` shows one) and exits with `exit_code`.
"""

from __future__ import annotations

import errno


class VtpError(Exception):
    """Base of all errors that a user may see."""

    exit_code = 2


class UsageError(VtpError):
    """A command, a recipe or a plugin that can't be used as asked."""

    exit_code = 2


class DataError(VtpError):
    """Data that is missing, empty or too damaged to go on."""

    exit_code = 3


class NumericError(VtpError):
    """Values that are not finite: losses or gradients of a run, or outputs of a tokenizer.

    Attributes:
        row: Row of the batch that has them, or None.
    """

    exit_code = 4

    def __init__(self, message: str, *, row: int | None = None) -> None:
        self.row = row
        super().__init__(message)


class CheckpointError(VtpError):
    """A checkpoint or artefact that is missing, damaged or of another recipe."""

    exit_code = 5


class DistributedError(VtpError):
    """A rank that failed, stalled or holds other values than the others."""

    exit_code = 6


class FileError(VtpError):
    """A file that can't be read or written: a full disk, a limit, no permission."""

    exit_code = 74  # EX_IOERR of sysexits.h, as 75 is its EX_TEMPFAIL


class ResourceError(VtpError):
    """What the system refused, and no file: memory, a process, a connection."""

    exit_code = 71  # EX_OSERR of sysexits.h: can't fork, can't create a pipe


_ROOM = "make room"
_OF_FILES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "check the disk",
    errno.EROFS: "write to another place",
}
"""What is about a file although the error names none, as of a write; and the next step."""
_OPEN_FILES = "raise the limit on open files (ulimit -n), or lower data.workers"
_NETWORK = "check the address and the network"
_OTHERWISE = {
    errno.ENOMEM: "free memory, or lower data.workers or the rows that are computed at a time",
    errno.EAGAIN: "lower data.workers, or raise the limit on processes (ulimit -u)",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.ECONNREFUSED: _NETWORK,
    errno.ECONNRESET: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ENETUNREACH: _NETWORK,
    errno.EADDRINUSE: _NETWORK,
}
_THREAD = "can't start new thread"
"""What Python says where a limit on processes is reached."""
_MEMORY = "can't allocate memory"
"""What torch's allocator of CPU memory says."""


def known_error(error: BaseException, doing: str = "") -> VtpError | None:
    """An error of the system as one line: what failed, what the system says, and the next step.

    Args:
        error: One with an errno, or of memory. One that names a file, or is of a write, is about that file.
        doing: What was being done, for the message of one that names no file.

    Returns:
        None for any other error.
    """
    if isinstance(error, VtpError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        says = error.strerror or str(error)
        advice = _OF_FILES.get(error.errno) or _OTHERWISE.get(error.errno)
        if error.filename:
            return FileError(f"{error.filename}: {says}; {advice or 'check the path and its permissions'}")
        of_file = error.errno in _OF_FILES
        what = doing or ("" if of_file else "the system refused a request")
        line = f"{what + ': ' if what else ''}{says}; {advice or 'vtp --debug shows where'}"
        return FileError(line) if of_file else ResourceError(line)
    if isinstance(error, RuntimeError) and str(error) == _THREAD:
        return ResourceError(
            f"{doing or 'the system refused a request'}: {_THREAD}; {_OTHERWISE[errno.EAGAIN]}"
        )
    # torch's class for GPUs is looked at by name: nothing here imports torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _MEMORY in str(error):
        return ResourceError(
            f"{doing or 'memory ran out'}: {error}; compute fewer rows at a time (run.microbatch_rows in a "
            "run; vtp plan shows what it needs)"
        )
    return None


class Preempted(VtpError):
    """The run was asked to stop, and its process has published a checkpoint."""

    exit_code = 75


class Stopped(VtpError):
    """The run was asked to stop before its process had published a checkpoint.

    Its exit code is 128 + the signal, as shells report it: 143 for SIGTERM.
    """

    exit_code = 143

    def __init__(self, message: str, *, number: int = 15) -> None:
        self.exit_code = 128 + number
        super().__init__(message)
