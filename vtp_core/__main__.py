"""``python -m vtp_core``: the command ``vtp``; the ranks of a run are started by it."""

import os
import sys

from vtp_core.cli.main import main
from vtp_core.run.launch import launched_ranks


def _run() -> None:
    try:
        main(prog_name="vtp")
    except SystemExit as ended:
        if launched_ranks() is None:
            raise
        # The threads of a process group may abort an ordinary exit, and the exit code with it.
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _run()
