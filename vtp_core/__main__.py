"""``python -m vtp_core``: the command ``vtp``; the ranks of a run are started by it."""

from vtp_core.cli.main import main
from vtp_core.run.processes.rank import flush, launched_ranks, leave


def _run() -> None:
    try:
        main(prog_name="vtp")
    except SystemExit as ended:
        if launched_ranks() is None:
            raise
        flush()
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


if __name__ == "__main__":
    _run()
