"""The commands as plain values: names, options, words. What a completion and a manual page are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct


class Switch(Struct, frozen=True):
    """An option of a command."""

    names: tuple[str, ...]
    """As written, the long one first."""
    words: str
    value: str | None
    """What its value is called; None: it takes none."""
    choices: tuple[str, ...] = ()
    """The only values there are, where they are few."""


class CommandWords(Struct, frozen=True):
    """One command."""

    name: str
    arguments: tuple[str, ...]
    """As in its usage line, in their order."""
    summary: str
    """Its first sentence."""
    words: str
    """What more it says of itself."""
    switches: tuple[Switch, ...]


def command_tree(root: Any) -> tuple[CommandWords, ...]:
    """Every command below `root`, that of the program, whose own options come first, under no name."""
    context = root.make_context("crun-batch", [], resilient_parsing=True)
    return (_words("", root, context), *(_words(name, one, context) for name, one in root.commands.items()))


def _words(name: str, command: Any, parent: Any) -> CommandWords:
    context = parent if not name else type(parent)(command, info_name=name, parent=parent)
    parameters: Sequence[Any] = command.get_params(context)
    first, _, rest = (command.help or "").replace("\f", "").strip().partition("\n")
    return CommandWords(
        name,
        tuple(_argument(one) for one in parameters if one.param_type_name == "argument"),
        first.strip(),
        " ".join(rest.split()),
        tuple(_switch(one) for one in parameters if one.param_type_name == "option" and not one.hidden),
    )


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _switch(parameter: Any) -> Switch:
    names = sorted((*parameter.opts, *parameter.secondary_opts), key=len, reverse=True)
    takes_value = not (parameter.is_flag or parameter.count)
    choices = tuple(str(one) for one in parameter.type_descriptor.choices or ())
    value = (parameter.metavar or parameter.name.upper()) if takes_value else None
    return Switch(tuple(names), " ".join((parameter.help or "").split()), value, choices if takes_value else ())


def by_name(tree: Sequence[CommandWords]) -> Mapping[str, CommandWords]:
    """The commands that have a name."""
    return {one.name: one for one in tree if one.name}
