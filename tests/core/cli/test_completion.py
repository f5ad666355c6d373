"""A shell completes commands, options, and the names of shipped recipes and tokenizers."""

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from vtp_core.cli.main import main

QUICKSTARTS = {"quickstart", "quickstart_gan", "quickstart_dit", "quickstart_dit_nano"}


def completed(line: str) -> dict[str, str]:
    """What completes the last word of a command line: value -> type."""
    *words, incomplete = line.split(" ")
    shell = ShellComplete(main, {}, "vtp", "_VTP_COMPLETE")
    return {item.value: item.type for item in shell.get_completions(words[1:], incomplete)}


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("vtp ex", {"export"}),
        ("vtp run --res", {"--resume"}),
        ("vtp run qui", QUICKSTARTS),
        ("vtp run quickstart qui", QUICKSTARTS),
        ("vtp plan vtp_n", {"vtp_nano"}),
        ("vtp validate smoke/clip_ae_", {"smoke/clip_ae_d256"}),
        ("vtp recipes copy vtp_n", {"vtp_nano"}),
        ("vtp eval vtp", {"vtp-nano"}),
        ("vtp eval vtp-nano --protocol titok", {"titok"}),
        ("vtp encode vtp", {"vtp-nano"}),
        ("vtp export vtp", {"vtp-nano"}),
    ],
)
def test_names_are_completed(line: str, names: set[str]) -> None:
    found = completed(line)
    assert {name for name, kind in found.items() if kind == "plain"} == names


def test_files_are_completed_beside_names_and_tests_stay_out() -> None:
    assert "file" in completed("vtp run ./my").values()
    assert not any(name.startswith("smoke/") for name in completed("vtp run "))


def test_it_works_in_a_shell_without_torch() -> None:
    """As bash calls it: words and position in the environment, answers on standard output."""
    probe = (
        "import sys\nfrom vtp_core.cli.main import main\n"
        "try: main(prog_name='vtp')\nfinally: assert 'torch' not in sys.modules"
    )
    environment = {"_VTP_COMPLETE": "bash_complete", "COMP_WORDS": "vtp run quick", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["plain,quickstart", "plain,quickstart_dit"]
