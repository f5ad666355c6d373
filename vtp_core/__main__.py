"""``python -m vtp_core`` is the command ``vtp``."""

from vtp_core.cli.main import main

main(prog_name="vtp")
