"""Programs of others that have the same job, from PyPI, each in a virtual environment of its own below ``.bench``."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

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


def collectd(scratch: pathlib.Path, socket: pathlib.Path) -> None:
    """Become tlsrpt-collectd."""
    options = {
        "storage": f"sqlite://{scratch}/collectd.sqlite",
        "socketname": socket,
        "pidfilename": f"{scratch}/collectd.pid",
        "logfilename": f"{scratch}/collectd.log",
        "log_level": "warning",
        "dump_path_for_invalid_datagram": f"{scratch}/invalid",
        "max_uncommited_datagrams": 1000,
    }
    _become("tlsrpt-reporter", "tlsrpt-collectd", options)


def reportd(scratch: pathlib.Path) -> None:
    """Become tlsrpt-reportd, which reports what collectd has in the same folder of yesterday."""
    fetcher = installed("tlsrpt-reporter") / "tlsrpt-fetcher"
    options = {
        "dbname": scratch / "reportd.sqlite",
        "pidfilename": f"{scratch}/reportd.pid",
        "logfilename": f"{scratch}/reportd.log",
        "log_level": "warning",
        "fetchers": f"{fetcher} --storage sqlite://{scratch}/collectd.sqlite --logfilename {scratch}/fetcher.log",
        "organization_name": "sender.example",
        "contact_info": "postmaster@sender.example",
        "sender_address": "noreply@sender.example",
        "sendmail_script": "true",
        "spread_out_delivery": 36000,
    }
    _become("tlsrpt-reporter", "tlsrpt-reportd", options)


def _become(name: str, command: str, options: Mapping[str, object]) -> None:
    path = installed(name) / command
    os.execv(path, [str(path), *(f"--{key}={value}" for key, value in options.items())])


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
