"""The hooks of a plugin, one for each kind of component. Imports no torch.

A plugin is a module with ``vtp_api = 2`` and functions marked `hookimpl` that have the names below; it needs
only those of the kinds it offers. `docs/plugin_hooks.md` has an example of each. A hook registers and changes
nothing else: recipes choose what is used.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import pluggy

Kind = Literal[
    "encoder",
    "bottleneck",
    "decoder",
    "objective",
    "optimizer",
    "source",
    "augmentation",
    "kernel",
    "ranking",
    "evaluator",
    "format",
    "tokenizer",
    "preparation",
    "callback",
    "command",
    "diagnostic",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of component, in the order in which they are listed."""

hookspec = pluggy.HookspecMarker("vtp")
hookimpl = pluggy.HookimplMarker("vtp")


def hook_name(kind: Kind) -> str:
    """Name of the hook that registers components of `kind`."""
    return f"register_{kind}s"


class Register(Protocol):
    """The argument of each hook: a function that offers one component; call it any number of times."""

    def __call__(
        self, name: str, target: object, *, config: str | type | None = None, summary: str = ""
    ) -> None:
        """Offers one component.

        Args:
            name: Lower-case letters, digits, ``_`` and ``-``. Recipes write ``<plugin>.<name>``; only
                first-party components have bare names.
            target: ``"package.module:Class"``, imported when it is used, or the object itself.
            config: The recipe table's model, a subclass of `vtp_core.ComponentConfig`, as such a string or
                the class; its module imports no torch. None: no keys of its own.
            summary: One line for ``vtp plugins list``.

        Raises:
            InvalidPlugin: The name or a string is malformed, or the name is taken.
        """


@hookspec
def register_encoders(register: Register) -> None:
    """Images to tokens: subclasses of `vtp_core.encoder.Encoder`, built as ``Class(config)``."""


@hookspec
def register_bottlenecks(register: Register) -> None:
    """Tokens to latents: subclasses of `vtp_core.bottleneck.Bottleneck`, built as ``Class(config, dims)``."""


@hookspec
def register_decoders(register: Register) -> None:
    """Latents to images: subclasses of `vtp_core.decoder.Decoder`, built as ``Class(config, dims)``."""


@hookspec
def register_objectives(register: Register) -> None:
    """Trained signals: subclasses of `vtp_core.objective.Objective`, built as ``Class(config, dims)``."""


@hookspec
def register_optimizers(register: Register) -> None:
    """Gradients to updates: subclasses of `vtp_core.training.optim.algorithm.OptimizerAlgorithm`."""


@hookspec
def register_sources(register: Register) -> None:
    """Where samples come from: classes with the methods of `vtp_core.data.source.Source`."""


@hookspec
def register_augmentations(register: Register) -> None:
    """Images to crops: subclasses of `vtp_core.data.augmentation.Augmentation`."""


@hookspec
def register_kernels(register: Register) -> None:
    """Implementations of an operation of `vtp_core.ops`."""


@hookspec
def register_rankings(register: Register) -> None:
    """Measured orders of implementations: functions of an operator's choice class and a device."""


@hookspec
def register_evaluators(register: Register) -> None:
    """Measurements of a frozen tokenizer: subclasses of `vtp_core.evaluation.evaluator.Evaluator`."""


@hookspec
def register_formats(register: Register) -> None:
    """Readers and writers of artefacts of other projects: ``matches``, ``read`` and ``write`` of a folder."""


@hookspec
def register_tokenizers(register: Register) -> None:
    """Trained tokenizers, for `vtp_core.load(name)`: functions that return an artefact's folder."""


@hookspec
def register_preparations(register: Register) -> None:
    """Functions that prepare a loaded tokenizer for inference; see `vtp_core.artefact.preparation`."""


@hookspec
def register_callbacks(register: Register) -> None:
    """Listeners to a run, such as a logger: subclasses of `vtp_core.run.callback.Callback`."""


@hookspec
def register_commands(register: Register) -> None:
    """Further commands of ``vtp``: `click.Command` objects, best as import strings."""


@hookspec
def register_diagnostics(register: Register) -> None:
    """Sections of ``vtp doctor``: functions without arguments that return a `Diagnosis`."""
