"""A recipe that is right, and made-up components that check like real ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, EvaluatorConfig, ObjectiveConfig, SourceConfig, Table
from vtp_core.plugins import Plugins, Register, hookimpl
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.schedule import Scheduled
from vtp_core.view import ViewNeed


class GridEncoderConfig(ComponentConfig):
    patch: Annotated[int, Field(gt=0)] = 8
    depth: int = 4
    sizes: tuple[int, ...] = (1, 2)


class Inner(Table):
    depth: int = 1
    name: str | None = None


class WidthConfig(ComponentConfig):
    channels: int
    inner: Inner = Inner()


class PairConfig(ObjectiveConfig):
    view: str = "image"
    rows: int | None = None
    masked: bool = False
    crops: tuple[str, ...] = ("global",)
    taps: tuple[int, ...] = ()
    text: bool = False
    margin: Scheduled = 0.5
    head_of: str | None = None

    def views(self) -> Mapping[str, ViewNeed]:
        need = ViewNeed(
            rows=self.rows, masked=self.masked, crops=self.crops, layers=self.taps, text=self.text
        )
        return {self.view: need}

    def conflicts(self) -> Mapping[str, str]:
        return {"margin": "can't be 0.25 with text"} if self.text and self.margin == 0.25 else {}

    def partners(self) -> Mapping[str, str]:
        return {} if self.head_of is None else {"head_of": self.head_of}


class ScoreConfig(EvaluatorConfig):
    use: str = "score"
    network: str | None = None
    protocol: str | None = None

    def conflicts(self) -> Mapping[str, str]:
        return {"network": "the protocol has none"} if self.network and self.protocol else {}


class DrawnConfig(SourceConfig):
    count: int = 10
    captions: bool = False
    kind: Literal["shapes", "noise"] = "shapes"

    def offers(self) -> frozenset[str]:
        return frozenset({"image", "text"} if self.captions else {"image"})


class CrashingConfig(ComponentConfig):
    @model_validator(mode="after")
    def _crash(self) -> "CrashingConfig":
        raise RuntimeError("this check is broken")


def fake_plugin() -> SimpleNamespace:
    """A plugin object; its hooks are made anew each time."""

    @hookimpl
    def register_encoders(register: Register) -> None:
        register("grid", "x:Grid", config=GridEncoderConfig)
        register("crashing", "x:Crashing", config=CrashingConfig)
        register("broken", "x:Broken", config="no_such_package.config:Config")

    @hookimpl
    def register_bottlenecks(register: Register) -> None:
        register("narrow", "x:Narrow", config=WidthConfig)

    @hookimpl
    def register_decoders(register: Register) -> None:
        register("plain", "x:Plain")

    @hookimpl
    def register_objectives(register: Register) -> None:
        register("pair", "x:Pair", config=PairConfig)

    @hookimpl
    def register_sources(register: Register) -> None:
        register("drawn", "x:Drawn", config=DrawnConfig)

    @hookimpl
    def register_evaluators(register: Register) -> None:
        register("score", "x:Score", config=ScoreConfig)

    return SimpleNamespace(vtp_api=2, **{name: hook for name, hook in locals().items() if callable(hook)})


RECIPE = """\
name = "base"

[run]
steps = 20

[data]
source = { use = "drawn", captions = true }

[views.image]
rows = 16
size = 32
augment = "clip"

[encoder]
use = "grid"

[bottleneck]
use = "narrow"
channels = 4

[decoder]
use = "plain"

[objectives.pair]
use = "pair"

[optimizer]
lr = 1e-3
"""


@pytest.fixture
def plugins() -> Plugins:
    found = Plugins()
    found.add(fake_plugin(), "fake", distribution="vtp-core")
    return found


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file into the folder that the test runs in, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "recipe.toml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, "utf-8")
        return name

    return write_file


@pytest.fixture
def load(plugins: Plugins, write: Callable[..., str]) -> Callable[..., Recipe]:
    """Loads the right recipe with lines replaced: ``load({"steps = 20": "steps = 5"})``."""

    def load_changed(
        changes: Mapping[str, str] | None = None, *overrides: str, world_size: int | None = None
    ) -> Recipe:
        text = RECIPE
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        return load_recipe(write(text), overrides, plugins, world_size)

    return load_changed
