"""``tlsrpt manual``: the manual pages, made of what the commands say of themselves.

A page for the program and for each command, in man(7)'s language; so they tell what is true of this version.
"""

import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sender.cli import running

SECTION = "1"


def manual(
    directory: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="DIRECTORY", help="Where to, for example /usr/local/share/man/man1; made where it is missing."
        ),
    ],
) -> None:
    """Write the manual pages of this program, one for each command."""
    with running.failures(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (directory / f"{name}.{SECTION}").write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each page by its name, without the section."""
    from sender.cli import app

    program: Any = typer.main.get_command(app.app)
    name = app.NAME
    made = {name: _page(name, program, list(_commands(program)))}
    for command_name, command in program.commands.items():
        made[f"{name}-{command_name}"] = _page(f"{name} {command_name}", command, [])
    return made


def _commands(program: Any) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name, command in program.commands.items():
        yield from (".TP", f".B {_text(name)}", _text(_paragraphs(command.help)[0]), f"See {_reference(name)}.")
    yield from (".SH SEE ALSO", ", ".join(_reference(name) for name in program.commands))


def _reference(command: str) -> str:
    return rf"\fBtlsrpt\-{_text(command)}\fR({SECTION})"


def _page(title: str, command: Any, more: list[str]) -> str:
    first, *rest = _paragraphs(command.help)
    page = title.replace(" ", "-")
    lines = [f'.TH "{page.upper()}" "{SECTION}" "" "tlsrpt" "User Commands"', ".ad l", ".SH NAME"]
    lines += [f"{_text(page)} \\- {_text(first.rstrip('.'))}", ".SH SYNOPSIS", f".B {_text(title)}"]
    lines += [_text(one) for one in _usage(command)]
    lines += [".SH DESCRIPTION", _text(first), *(line for one in rest for line in (".PP", _text(one)))]
    lines += _parameters(command)
    lines += more
    lines += [".SH EXIT STATUS", "0 done, 1 something failed, 2 wrong usage or configuration.", ""]
    return "\n".join(lines)


def _usage(command: Any) -> Iterator[str]:
    yield "[OPTION ...]"
    if getattr(command, "commands", None):
        yield "COMMAND [ARGUMENT ...]"
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = _metavar(parameter)
            shown = f"{shown} ..." if parameter.nargs == -1 or parameter.multiple else shown
            yield shown if parameter.required else f"[{shown}]"


def _parameters(command: Any) -> Iterator[str]:
    for kind, heading in (("argument", "ARGUMENTS"), ("option", "OPTIONS")):
        found = [one for one in command.params if one.param_type_name == kind and not getattr(one, "hidden", False)]
        if found:
            yield f".SH {heading}"
        for one in found:
            yield from (".TP", f".B {_text(_names(one))}", _text(_help(one)))


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _metavar(parameter)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {_metavar(parameter)}"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.display_name_raw or parameter.name).upper()


def _help(parameter: Any) -> str:
    said = " ".join(str(parameter.help or "").split())
    default = parameter.default
    if default not in (None, False, True, "") and not callable(default) and not isinstance(default, list | tuple):
        said += f" Default: {getattr(default, 'value', default)}."
    return said


def _paragraphs(text: str | None) -> list[str]:
    cleaned = inspect.cleandoc(text or "").partition("\f")[0]
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", cleaned) if one.strip()] or [""]


def _text(text: str) -> str:
    """Return a text as roff has it: nothing in it is an instruction."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
