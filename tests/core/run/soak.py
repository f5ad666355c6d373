"""Kills, stop signals and full disks at random moments; each run goes on and must end as one left alone.

``make soak`` makes 300: ``python -m tests.core.run.soak --faults 300``. Runs are forked from a process that
has imported everything, so that a start takes no seconds.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.core.run.forked import Forked
from tests.core.run.tiny_run import arguments, metrics, state, vtp
from vtp_core.errors import CheckpointError, FileError, VtpError
from vtp_core.training.saving.checkpoint import find_latest

SETS = (
    "run.checkpoint_every=2",
    "run.keep_checkpoints=2",
    "evaluate.every=4",
    'evaluate.source={use = "samples", split = "val"}',
    "evaluators.reconstruction.use=reconstruction",
    "views.rec.drop_path=0.2",
    "run.microbatch_rows=3",
)
WRITES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass
class Soak:
    """What happened.

    Attributes:
        faults: Kind of fault -> number that hit a run.
        codes: Exit code -> number of starts.
        problems: What was not as it should be.
        runs: Runs that were brought to their end.
    """

    faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    runs: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()))
        return (
            f"{sum(self.faults.values())} faults ({kinds}) in {self.runs} runs, exit codes {codes}; "
            f"{len(self.problems)} problems"
        )


def soak(folder: Path, faults: int, seed: int, say: Callable[[str], object] = print) -> Soak:
    """Hits runs in `folder` with `faults` faults.

    Args:
        folder: An empty folder.
        faults: Their number.
        seed: Of moments and kinds.
        say: Is given each problem, and now and then the count.
    """
    draw, done = random.Random(seed), Soak()
    warm = _new(folder, "warm")
    result = vtp(warm, *SETS)  # imports what a run imports
    assert result.exit_code == 0, result.output
    alone = _new(folder, "alone")
    events = folder / "events"
    began = time.monotonic()
    process = Forked(arguments(alone, *SETS), partial(_on_event, str(alone / "run"), _note, 0, events))
    assert process.wait() == 0, process.text
    seconds, count = time.monotonic() - began, len(events.read_text().splitlines())
    expected = digest(alone)
    while sum(done.faults.values()) < faults:
        run = _new(folder, f"run{done.runs}")
        for _ in range(draw.randint(1, 6)):
            if sum(done.faults.values()) < faults:
                _hit(run, draw, seconds, count, done)
        process = Forked(_arguments(run, draw))
        if (code := process.wait(120)) != 0:
            done.problems.append(f"{run}: does not end, exit code {code}: {process.text[-500:]}")
        elif (found := digest(run)) != expected:
            different = [name for name, value in expected.items() if found.get(name) != value]
            done.problems.append(f"{run}: differs in {', '.join(different)}")
        done.runs += 1
        if done.runs % 10 == 0:
            say(str(done))
    for problem in done.problems:
        say(problem)
    say(str(done))
    return done


def digest(folder: Path) -> dict[str, object]:
    """All that a run leaves and can repeat: every bit of its state, its metrics, artefact and evaluation."""
    found: dict[str, object] = {"metrics": metrics(folder)}
    for name, tensor in state(folder).items():
        found[name] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    for name in ("tokenizer/model.safetensors", "tokenizer/config.json", "eval.json"):
        found[name] = hashlib.sha256((folder / "run" / name).read_bytes()).hexdigest()
    found["report"] = (folder / "run/report.html").is_file()
    return found


def _new(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def _arguments(folder: Path, draw: random.Random) -> list[str]:
    return arguments(folder, *SETS, f"data.workers={draw.choice((0, 0, 0, 2))}", resume=True)


def _hit(run: Path, draw: random.Random, seconds: float, count: int, done: Soak) -> None:
    """Starts the run, hits it once and checks the exit code."""
    kind = draw.choice(("kill", "kill at a write", "stop", "stop twice", "full disk"))
    hook = None
    if kind in ("kill at a write", "full disk"):
        action = _kill if kind == "kill at a write" else _full
        hook = partial(_on_event, str(run / "run"), action, draw.randint(1, count), None)
    number = signal.SIGKILL if kind == "kill" else draw.choice(STOPS)
    before, newest = time.time(), _newest(run)
    process = Forked(_arguments(run, draw), hook)
    if hook is None:
        _wait(process, draw.uniform(0.0, seconds))
        process.send(number)
        if kind == "stop twice":
            time.sleep(draw.uniform(0.0, 0.05))
            process.send(number)
    code = process.wait(120)
    done.faults[kind] += 1
    done.codes[code] += 1
    published = _newest(run) != newest and _newest(run)[1] >= before - 1
    text = process.text
    if "Traceback" in text or "internal error" in text:
        done.problems.append(f"{run}: {kind}: {text[-800:]}")
    lines = [line for line in text.splitlines() if line.startswith("error: stopped by")]
    expected = {
        "kill": {0, -9},
        "kill at a write": {0, -9},
        "full disk": {0, CheckpointError.exit_code, FileError.exit_code},
    }.get(kind, {0, 75, 128 + number, -number})
    if code not in expected:
        done.problems.append(f"{run}: {kind}: exit code {code}: {text[-500:]}")
    if code == 75 and not (published and lines and f"{_newest(run)[0]} is saved" in lines[0]):
        done.problems.append(f"{run}: {kind}: 75 without a checkpoint: {text[-500:]}")
    if code == 128 + number and published:
        done.problems.append(f"{run}: {kind}: {code} with a checkpoint: {text[-500:]}")


def _wait(process: Forked, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and process.read(left):
        pass


def _newest(run: Path) -> tuple[str, float]:
    try:
        path = find_latest(run / "run").path
    except VtpError:
        return "", 0.0
    return path.name, path.stat().st_mtime


def _on_event(
    folder: str, action: Callable[[Path | None, str, str], None], at: int, log: Path | None
) -> None:
    """Calls `action` at the `at`-th change below a folder and at all later ones; 0: at all."""
    seen, process = [0], os.getpid()

    def hook(event: str, arguments: tuple) -> None:
        if event not in WRITES or os.getpid() != process or not _below(folder, event, arguments):
            return
        seen[0] += 1
        if seen[0] >= at:
            action(log, event, str(arguments[0]))

    sys.addaudithook(hook)


def _below(folder: str, event: str, arguments: tuple) -> bool:
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and not (isinstance(mode, str) and set(mode) & set("wax+")):
            return False
    return any(isinstance(path, str | bytes | Path) and folder in os.fsdecode(path) for path in arguments[:2])


def _note(log: Path | None, *_: str) -> None:
    assert log is not None
    with log.open("a") as file:
        file.write("x\n")


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full(_: Path | None, event: str, path: str) -> None:
    """From now on no file of this process grows and none can be made; they can be removed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if event in ("open", "os.mkdir"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def main() -> None:
    """Exits with 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}")
    with tempfile.TemporaryDirectory(prefix="vtp-soak-") as folder:
        raise SystemExit(bool(soak(Path(folder), chosen.faults, chosen.seed).problems))


if __name__ == "__main__":
    main()
