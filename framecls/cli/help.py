"""What --help shows of a command, whatever the version of Typer: names and texts, and no types of Python's."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from typer.core import TyperCommand, TyperGroup

from framecls.cli.messages import USAGE
from framecls.cli.options import OUTPUT


def examples(*lines: str) -> str:
    """Return what --help shows under the options: command lines, one below the other."""
    return "\n".join(("Examples:", *lines))


class Command(TyperCommand):
    """A command whose usage line and lists of options are made of the names that `cli.options` gives."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; what takes no value shows none (Typer writes `--quiet <bool>`)."""
        parameters = [_without_type(parameter) for parameter in super().get_params(ctx)]
        if any(parameter.rich_help_panel == OUTPUT for parameter in parameters):
            parameters[-1].rich_help_panel = OUTPUT  # --help, which has a panel of its own otherwise
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line: `[OPTIONS] INPUT...` (Typer writes `{INPUT...}...`)."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *(p.metavar or p.name.upper() for p in arguments)]


class Group(TyperGroup):
    """A group of commands, whose own options are shown in the same way; without a command it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; where there are none, show the help in place of an error."""
        if not args and not ctx.resilient_parsing:
            with contextlib.redirect_stdout(sys.stderr):  # Typer prints it, and returns nothing
                sys.stderr.write(ctx.get_help())
            ctx.exit(USAGE)
        return list(super().parse_args(ctx, args))

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, as `Command` does."""
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


def _without_type(parameter: Any) -> Any:
    takes_value = not (getattr(parameter, "is_flag", False) or getattr(parameter, "count", False))
    if parameter.param_type_name == "argument" or not takes_value:
        parameter.display_type_rich = lambda ctx: None
    return parameter
