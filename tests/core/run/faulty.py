"""A plugin of one file that makes runs go wrong at chosen steps; loaded with ``--plugin``."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from vtp_core.config import ComponentConfig, ObjectiveConfig
from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.plugins import hookimpl
from vtp_core.run.callback import Callback
from vtp_core.view import ViewNeed

vtp_api = 2


class SignalConfig(ComponentConfig):
    at: int
    """Logged step after which the process sends itself the signal."""
    signal: str = "SIGTERM"
    """Its name."""
    first: bool = False
    """Whether only the first start of the run folder gets it."""


class Signal(Callback):
    config: SignalConfig
    _folder: Path

    def on_run_start(self, run):
        self._folder = run.folder

    def on_step_end(self, step, metrics):
        done = self._folder / "signal-sent"
        if step == self.config.at and not (self.config.first and done.exists()):
            done.touch()
            os.kill(os.getpid(), getattr(signal, self.config.signal))


class SlowConfig(ComponentConfig):
    seconds: float
    """Pause after each logged step."""


class Slow(Callback):
    config: SlowConfig

    def on_step_end(self, step, metrics):
        time.sleep(self.config.seconds)


class BadNumberConfig(ObjectiveConfig):
    view: str
    """View whose reconstruction is looked at."""
    at: tuple[int, ...] = ()
    """Steps (0-based) that go wrong."""
    where: str = "loss"
    """`loss`: a NaN in the term; `gradient`: a finite term with an infinite gradient; `exit`: rank 1 dies;
    `hang`: the last rank sleeps."""

    def views(self) -> Mapping[str, ViewNeed]:
        return {self.view: ViewNeed()}


class BadNumber(Objective):
    config: BadNumberConfig

    def forward(self, step):
        image = step.reconstruct(self.config.view).image.float()
        term = image.square().mean()
        if step.index in self.config.at:
            if self.config.where == "loss":
                term = term * torch.nan
            elif self.config.where == "gradient":
                term = term + (image * 0).abs().sqrt().sum()  # 0 with an infinite slope
            elif self.config.where == "hang":
                print("hanging", flush=True)
                time.sleep(1e6 if step.rank == step.world_size - 1 else 0)
            elif step.rank == 1:
                os._exit(9)
        return Losses(terms={"square": term})


class ParametersConfig(ObjectiveConfig):
    view: str
    """View whose reconstruction is looked at."""

    def views(self) -> Mapping[str, ViewNeed]:
        return {self.view: ViewNeed()}


class Idle(Objective):
    """Has a layer that no loss uses."""

    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.used, self.unused = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)

    def forward(self, step):
        image = step.reconstruct(self.config.view).image
        return Losses(terms={"idle": self.used(image.mean((2, 3))).square().mean()})


class SlowStartConfig(ParametersConfig):
    inside: str = "python"
    """Where it hangs: `python`, or `c`, which no signal handler of Python interrupts."""


class SlowStart(Idle):
    """Is never built."""

    def __init__(self, config, dims):
        print("starting", flush=True)
        if config.inside == "c":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        time.sleep(1e6)


class Scalar(Idle):
    """Has a parameter without a dimension."""

    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))


@hookimpl
def register_callbacks(register):
    register("signal", Signal, config=SignalConfig, summary="Sends the process a signal.")
    register("slow", Slow, config=SlowConfig, summary="Waits after each step.")


@hookimpl
def register_objectives(register):
    register("idle", Idle, config=ParametersConfig, summary="A layer without a gradient.")
    register("scalar", Scalar, config=ParametersConfig, summary="A 0-D parameter.")
    register("slow_start", SlowStart, config=SlowStartConfig, summary="Never built.")
    register("bad_number", BadNumber, config=BadNumberConfig, summary="Not finite at chosen steps.")
