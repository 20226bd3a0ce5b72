"""Programs of others that have the same job, from PyPI, each in a virtual environment of its own below ``.bench``."""

import pathlib
import subprocess
import sys

from tests.benchmarks import measure

FOLDER = pathlib.Path(__file__).parents[2] / ".bench"

PATIENCE = 300.0
"""Seconds for pip."""


def installed(name: str) -> pathlib.Path:
    """Return the folder with the commands of a peer; install it if it is not there.

    Args:
        name: what ``peers/NAME.txt`` beside this module pins.

    Raises:
        measure.CannotError: it cannot be installed.
    """
    folder = FOLDER / name
    pins = pathlib.Path(__file__).parent / "peers" / f"{name}.txt"
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text() != pins.read_text():
        try:
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(pins))
        except (OSError, subprocess.SubprocessError) as error:
            raise measure.CannotError(f"{name} cannot be installed: {error}") from error
        mark.write_text(pins.read_text())
    return folder / "bin"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
