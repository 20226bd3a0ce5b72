"""The documents stay true: commands that are named exist, the map names every module, every result type has a case."""

import collections
import json
import pathlib
import re
import shlex
import tomllib

import pytest
import typer.main

from sender import session
from sender.cli import app

CHECKOUT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPTS = ("$ ", "# ")
"""Of a user, and of root."""
PROGRAMS = frozenset(
    {"apt-get", "cat", "cd", "cp", "df", "docker", "du"}
    | {"env", "export", "gcc", "git", "install", "journalctl", "ln"}
    | {"pip", "postconf", "postfix", "postqueue", "printf", "python3", "sendmail"}
    | {"sh", "ssh", "sysctl", "systemctl", "systemd-sysusers", "systemd-tmpfiles"}
)
"""What documents show of other programs."""
COMMANDS = typer.main.get_command(app.app).commands  # type: ignore[attr-defined] # it is a group


def console_commands() -> list[tuple[str, str]]:
    """Return each command of a console block with the document it is in."""
    return [
        (document.name, line[2:])
        for document in DOCUMENTS
        for block in CONSOLE.findall(document.read_text())
        for line in block.splitlines()
        if line.startswith(PROMPTS)
    ]


def is_known(command: str) -> bool:
    """Tell whether a command line can be given as it stands."""
    program, *arguments = shlex.split(command, comments=True)
    match pathlib.PurePath(program).name:
        case "tlsrpt":
            return is_tlsrpt(arguments)
        case "make":
            targets = re.findall(r"^([a-z0-9]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
            return {argument for argument in arguments if "=" not in argument} <= set(targets)
        case name:
            return name in PROGRAMS


def is_tlsrpt(arguments: list[str]) -> bool:
    """Tell whether ``tlsrpt`` has this command with these options, and takes so many arguments."""
    name, *rest = arguments
    command = COMMANDS.get(name)
    if command is None:
        return arguments in (["--version"], ["--help"])
    command.parse_args(typer.Context(command, info_name=name), rest)  # raises what is wrong
    return True


def test_there_are_commands_to_check() -> None:
    """The README shows how to run it and how to look at it."""
    shown = [command for document, command in console_commands() if document == "README.md"]
    for beginning in ("make demo", "make test", "tlsrpt serve", "tlsrpt pending", "tlsrpt show"):
        assert any(command.startswith(beginning) for command in shown), beginning


@pytest.mark.parametrize(("document", "command"), console_commands())
def test_each_command_of_the_documents_exists(document: str, command: str) -> None:
    """As it stands, with its options."""
    assert is_known(command), f"{document}: {command}"


def test_each_command_named_in_a_sentence_exists() -> None:
    """``tlsrpt report --now``, ``tlsrpt retry ID``: in backticks anywhere."""
    for document in DOCUMENTS:
        for name, rest in re.findall(r"`tlsrpt ([a-z]+)([^`]*)`", document.read_text()):
            assert name in COMMANDS, f"{document.name}: tlsrpt {name}"
            options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{document.name}: tlsrpt {name}{rest}"


def test_each_link_of_the_documents_leads_somewhere() -> None:
    """Those to files of the checkout."""
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


INNER = ("sender.demo.", "sender.cli.", "sender.store.migrations")
"""Packages that ``ARCHITECTURE.md`` describes as a whole."""


def modules() -> set[str]:
    """Return the modules there are, packages by their own name."""
    paths = [path for room in ("policy", "sender") for path in (CHECKOUT / room).rglob("*.py")]
    dotted = {".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__") for name in dotted} - {"policy", "sender"}


def test_the_map_names_every_module_and_none_that_is_gone() -> None:
    """``ARCHITECTURE.md`` has a line for each."""
    mapped = set(re.findall(r"^\| `((?:policy|sender)\.[a-z_.]+)` \|", architecture(), re.MULTILINE))
    expected = {name for name in modules() if not name.startswith(INNER) and name != "sender.__main__"}
    assert mapped == expected
    named = set(re.findall(r"`((?:policy|sender)\.[a-z_]+(?:\.[a-z_]+)*)`", architecture()))
    assert named <= modules(), "named in the text, but gone"


def test_the_map_names_the_modules_of_the_command_line() -> None:
    """They share one line."""
    (line,) = re.findall(r"^\| `sender\.cli` \|.*$", architecture(), re.MULTILINE)
    inner = {name.rpartition(".")[2] for name in modules() if name.startswith("sender.cli.")}
    assert set(re.findall(r"`([a-z_]+)`", line)) == inner


def test_a_module_is_on_one_line_of_the_map_only() -> None:
    """What is described twice is two modules, or one line too many."""
    lines = collections.Counter(re.findall(r"^\| `([a-z_.]+)` \|", architecture(), re.MULTILINE))
    assert lines
    assert set(lines.values()) == {1}


def architecture() -> str:
    """Return the map."""
    return (CHECKOUT / "ARCHITECTURE.md").read_text()


def test_the_changelog_has_the_current_version() -> None:
    """It begins with the version of ``pyproject.toml``."""
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version


CODES = dict(re.findall(r"^\| (\d{3}) \| ([a-z-]+)", (CHECKOUT / "docs" / "datagram.md").read_text(), re.MULTILINE))


def test_the_datagram_document_names_each_result_type() -> None:
    """RFC 8460 section 4.3."""
    assert sorted(CODES.values()) == sorted(session.ResultType)


@pytest.mark.parametrize("result_type", session.ResultType)
def test_each_result_type_is_expected_in_a_test_or_seen_in_a_capture(result_type: session.ResultType) -> None:
    """By its name or its member in a test, or by its code in what Postfix sent."""
    words = (f'"{result_type.value}"', f"ResultType.{result_type.name}")
    tests = [path for path in (CHECKOUT / "tests").rglob("test_*.py") if path != pathlib.Path(__file__)]
    in_tests = [path.name for path in tests if any(word in path.read_text() for word in words)]
    (code,) = (code for code, name in CODES.items() if name == result_type.value)
    captured = (CHECKOUT / "tests" / "data" / "postfix-3.10.jsonl").read_text().splitlines()
    datagrams = [datagram for line in captured for datagram in json.loads(line)["datagrams"]]
    assert in_tests or any(f'"c":{code}' in datagram for datagram in datagrams)
