"""What --help shows of a command, whatever the version of Typer: names and texts, and no types of Python's."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose usage line and lists of options are made of the names that `cli.options` gives."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; what takes no value shows none (Typer writes `--quiet <bool>`)."""
        return [_without_type(parameter) for parameter in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line: `[OPTIONS] INPUT...` (Typer writes `{INPUT...}...`)."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *(p.metavar or p.name.upper() for p in arguments)]


class Group(TyperGroup):
    """A group of commands, whose own options are shown in the same way."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, as `Command` does."""
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


def _without_type(parameter: Any) -> Any:
    takes_value = not (getattr(parameter, "is_flag", False) or getattr(parameter, "count", False))
    if parameter.param_type_name == "argument" or not takes_value:
        parameter.display_type_rich = lambda ctx: None
    return parameter
