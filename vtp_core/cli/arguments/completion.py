"""What a shell completes: names of shipped recipes and tokenizers, and files. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from vtp_core.plugins import load_plugins
from vtp_core.recipe.shipped import shipped_recipes


def recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped recipes, and files and folders; those for tests only once their folder is typed."""
    names = shipped_recipes()
    return _matching([name for name in names if "/" not in name or "/" in incomplete], incomplete)


def tokenizers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped tokenizers, and files and folders."""
    return _matching([item.name for item in load_plugins().components("tokenizer")], incomplete)


def protocols(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Named protocols of all evaluators."""
    from vtp_core.cli.arguments.protocols import known_protocols

    return [CompletionItem(name) for name in known_protocols(load_plugins()) if name.startswith(incomplete)]


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]
