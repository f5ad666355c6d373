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

    @classmethod
    def of(cls, error: OSError) -> FileError:
        """The error as one line: the file, what the system says, and the next step."""
        where = f"{error.filename}: " if error.filename else ""
        return cls(f"{where}{error.strerror or error}; {_ADVICE.get(error.errno or 0, _CHECK)}")


_CHECK = "check the path and its permissions"
_ROOM = "make room"
_LIMIT = "raise the limit on the size of files (ulimit -f)"
_ADVICE = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _LIMIT, errno.EIO: "check the disk"}


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
