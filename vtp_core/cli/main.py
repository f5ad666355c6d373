"""The command ``vtp``. Each subcommand is a module that is imported when it is called. Imports no torch.

Plugins add commands by the hook `register_commands`.
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vtp_core.cli.output import describe, internal_error
from vtp_core.errors import VtpError, known_error

if TYPE_CHECKING:
    from vtp_core.plugins import Component

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("vtp_core.cli.run:run", "Train what a recipe describes; several recipes are stages."),
    "validate": ("vtp_core.cli.validate:validate", "Check a recipe and print everything that is wrong."),
    "show": ("vtp_core.cli.show:show", "Print a recipe with all defaults and where they come from."),
    "recipes": ("vtp_core.cli.recipes:recipes", "List and copy the recipes that ship with vtp."),
    "schema": ("vtp_core.cli.schema:schema", "Print the JSON schema of recipes, for editors."),
    "plugins": ("vtp_core.cli.plugins:plugins", "List installed plugins and what they offer."),
    "eval": ("vtp_core.cli.eval:eval_", "Measure a trained tokenizer."),
    "encode": ("vtp_core.cli.encode:encode", "Turn images into latents."),
    "decode": ("vtp_core.cli.decode:decode", "Turn latents into images."),
    "export": ("vtp_core.cli.export:export", "Write the tokenizer of a run to a folder."),
    "report": ("vtp_core.cli.report:report", "Write the HTML report of a run."),
    "doctor": ("vtp_core.cli.doctor:doctor", "Print versions, devices and what is broken."),
}
"""Name -> where the click command is, and its line in the list of commands."""


class VtpGroup(click.Group):
    """A click group that imports commands when they are called and prints errors on one line."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Built-in commands in the order of work, then those of plugins."""
        return [*COMMANDS, *self._from_plugins(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name; plugins are loaded only if it is not built in."""
        if name in COMMANDS:
            module, _, attribute = COMMANDS[name][0].partition(":")
            command = getattr(importlib.import_module(module), attribute)
        elif name in (found := self._from_plugins(context)):
            command = found[name].load_target()
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for an unknown name."""
        name = arguments[0]
        if not name.startswith("-") and self.get_command(context, name) is None:
            from vtp_core.recipe.problems import did_you_mean

            context.fail(f'there is no command "{name}"; {did_you_mean(name, self.list_commands(context))}')
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        rows = [(name, summary) for name, (_, summary) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        if added := self._from_plugins(context):
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, component.summary) for name, component in added.items()])

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """As click does, which prints ``--help`` and ``--version`` here."""
        try:
            return super().parse_args(context, arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            known = known_error(error)
            if known is None:
                raise
            _end_by(context, known)

    def invoke(self, context: click.Context) -> Any:
        """Runs a command; an error ends it with one line and the error's exit code."""
        debug = bool(context.params.get("debug"))
        try:
            return super().invoke(context)
        except VtpError as error:
            if debug:
                raise
            _end_by(context, error)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            if debug:
                raise
            _end(context, "error: interrupted", 130)  # as shells report SIGINT
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # what plugins raise may have no other base
            if debug:
                raise
            if known := known_error(error):
                _end_by(context, known)
            _end(context, internal_error(error), 1)

    def _from_plugins(self, context: click.Context) -> dict[str, Component]:
        from vtp_core.plugins import load_plugins

        found = load_plugins(context.params.get("plugin_files", ())).components("command")
        return {component.name: component for component in found if component.name not in COMMANDS}


def _end_by(context: click.Context, error: VtpError) -> NoReturn:
    _end(context, describe(error), error.exit_code)


def _end(context: click.Context, message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    context.exit(code)


@click.group(cls=VtpGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="vtp-core", prog_name="vtp")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    is_eager=True,  # before --help lists the commands
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Offer the commands of a Python file.",
)
def main(debug: bool, plugin_files: tuple[Path, ...]) -> None:
    """Pre-train, evaluate and hand over visual tokenizers.

    Start with vtp run quickstart, or with your own images: vtp init FOLDER
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8; standard error does so
        sys.stdout.reconfigure(errors="backslashreplace")
