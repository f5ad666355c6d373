"""A plugin of one file: evaluators whose numbers a recipe says in advance; loaded with ``--plugin``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import vtp_core as vtp

vtp_api = 2


class ScriptConfig(vtp.ComponentConfig):
    use: str = "scripted.script"
    values: tuple[float, ...]
    """Value at the end of every second step."""
    lower: bool = False
    """Whether lower is better."""
    fails: tuple[int, ...] = ()
    """Steps at which it can't be measured."""
    file: bool = False
    """Whether a file is read that lacks what the score needs."""


class Script(vtp.Evaluator):
    """Reads no data; the value is that of the tokenizer's step."""

    uses_held_out = False
    protocol = "script-v1"
    config: ScriptConfig
    step = 0
    lacking = False

    def load(self) -> None:
        self.lacking = self.config.file

    @property
    def metrics(self) -> Mapping[str, vtp.Metric]:
        if self.lacking:
            return {}
        return {"score": vtp.Metric(title="Score", higher_is_better=not self.config.lower)}

    def begin(self, model: vtp.Tokenizer, classes: Sequence[str]) -> None:
        assert model.config is not None and model.config.step is not None
        self.step = model.config.step

    def state(self) -> vtp.Tally:
        return vtp.Tally()

    def compute(self, state: vtp.Tally) -> Mapping[str, vtp.Score]:
        if self.step in self.config.fails:
            raise vtp.DataError(f"no score at step {self.step}")
        value = self.config.values[self.step // 2 - 1]
        return {
            "score": vtp.Score(value=value, baselines={"half": vtp.Baseline(value=0.5, error=0.1)}, error=0.1)
        }


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    register("script", Script, config=ScriptConfig, summary="Numbers of a script.")
