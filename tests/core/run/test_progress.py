"""Progress on a terminal and elsewhere."""

import io

from rich.console import Console

from vtp_core.evaluation.latents import CPU_SAMPLES, GPU_SAMPLES, statistics_samples
from vtp_core.run import progress
from vtp_core.run.progress import RunProgress, show_pass


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def test_a_pass_without_a_terminal_prints_lines_that_are_far_apart(monkeypatch) -> None:
    clock = iter(range(0, 1000, 4))  # four seconds between two looks
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    out = console(terminal=False)
    with show_pass("statistics", 10, console=out) as advance:
        for _ in range(10):
            advance(1)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "statistics: 10 images"
    assert 1 < len(lines) < 10 and all(
        line.startswith("statistics: ") and "/10  left" in line for line in lines[1:]
    )


def test_passes_share_the_terminal_with_the_bar_of_steps() -> None:
    out = console(terminal=True)
    with RunProgress(4, console=out) as bar:
        bar.step(1)
        with bar.show("evaluation", 3) as advance:
            advance(2)
            advance(2)  # a pass never shows more than its total
        with bar.show("writing"):
            pass
        bar.step(2)
    text = out.file.getvalue()
    assert "evaluation: 3 images" in text and "2/4" in text


def test_statistics_take_fewer_samples_on_a_cpu() -> None:
    import torch

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (statistics_samples(cpu), statistics_samples(gpu)) == (CPU_SAMPLES, GPU_SAMPLES) == (2_000, 10_000)
    assert statistics_samples(cpu, limit=5) == 5 and statistics_samples(gpu, limit=50_000) == GPU_SAMPLES
    assert statistics_samples(cpu, 0, 5) == 0 and statistics_samples(cpu, 9_000, 5) == 9_000


def test_the_time_left_is_that_of_steps_after_the_first(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with RunProgress(12, 10, console(terminal=False)) as short:
        now[0] = 100.0  # the first step waits for workers
        short.step(11)
        assert short.left(11) == "?"
    with RunProgress(20, 10, console(terminal=False)) as bar:
        now[0] = 300.0
        bar.step(11)
        with bar.show("evaluation", 3):
            now[0] = 900.0
        now[0] = 902.0
        assert bar.left(12) == "0:00:16"
