"""Manual pages and completion: made of the commands, so nothing is missing in them."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
import typer

from sender.cli import app, manual

COMMANDS: Any = typer.main.get_command(app.app)


def plain(text: str) -> str:
    """Return a page without roff's escapes."""
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "").replace("\\e", "\\")


@pytest.mark.parametrize("name", list(COMMANDS.commands))
def test_every_option_and_argument_is_on_the_page_of_its_command(name: str) -> None:
    """With what it says of itself."""
    text = plain(manual.pages()[f"tlsrpt-{name}"])
    for parameter in COMMANDS.commands[name].params:
        if getattr(parameter, "hidden", False):
            continue
        assert " ".join(str(parameter.help).split()) in text
        is_option = parameter.param_type_name == "option"
        names = parameter.opts if is_option else [str(parameter.metavar or parameter.name).upper()]
        assert all(one in text for one in names)


def test_the_page_of_the_program_leads_to_all_others() -> None:
    """Each command, with its first sentence."""
    pages = manual.pages()
    for name in COMMANDS.commands:
        assert f".B {name.replace('-', chr(92) + '-')}\n" in pages["tlsrpt"]
        assert f"tlsrpt-{name}" in plain(pages["tlsrpt"])
    assert set(pages) == {"tlsrpt", *(f"tlsrpt-{name}" for name in COMMANDS.commands)}


def test_groff_takes_every_page(tmp_path: pathlib.Path) -> None:
    """No unknown macro, nothing that a line of text turned into an instruction."""
    if shutil.which("groff") is None:
        assert "CI" not in os.environ, "CI installs groff-base"
        pytest.skip("groff is not installed")
    command = [sys.executable, "-m", "sender", "manual", str(tmp_path / "man1")]
    subprocess.run(command, check=True, timeout=60)
    pages = sorted((tmp_path / "man1").glob("*.1"))
    assert len(pages) == 1 + len(COMMANDS.commands)
    for page in pages:
        done = subprocess.run(["groff", "-man", "-w", "mac", "-z", page], capture_output=True, text=True, check=True)
        assert done.stderr == "", page.name


def test_bash_completes(tmp_path: pathlib.Path) -> None:
    """What docs/installation.md puts into bash's folder completes commands and options in a real bash."""
    program = tmp_path / "tlsrpt"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sender "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = subprocess.run(
        [program], env={**os.environ, "_TLSRPT_COMPLETE": "source_bash"}, capture_output=True, text=True, check=True
    )
    (tmp_path / "completion").write_text(script.stdout)
    call = '_tlsrpt_completion tlsrpt; echo "${COMPREPLY[*]}"'
    asked = f". {tmp_path}/completion; COMP_WORDS=(tlsrpt pen); COMP_CWORD=1; {call}; "
    asked += f"COMP_WORDS=(tlsrpt report --dr); COMP_CWORD=2; {call}"
    done = subprocess.run(
        ["bash", "-c", asked], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["pending", "--dry-run"], done.stderr
