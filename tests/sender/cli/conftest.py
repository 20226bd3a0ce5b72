"""The command as a process of its own, in the folder of a test, and what its store is filled with."""

import datetime as dt
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from sender.store import engine
from tests import configured, stored

TIMEOUT = 60.0
"""Seconds after which a command hangs."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tlsrpt(tmp_path: pathlib.Path) -> Command:
    """Return what runs ``tlsrpt`` with 80 columns and the test's configuration; keywords are environment variables."""
    path = tmp_path / "tlsrpt.toml"
    path.write_text(configured.text(tmp_path))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TLSRPT_", "_TLSRPT_"))}

    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        variables = inherited | {"COLUMNS": "80", "TLSRPT_CONFIG": str(path)} | environment
        command = [sys.executable, "-m", "sender", *arguments]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=tmp_path,
            env=variables,
            check=False,
        )

    return run


@pytest.fixture
def add(store: engine.Store) -> Callable[..., None]:
    """Return what counts sessions of a day with each of some domains; so many succeed, so many fail."""

    def add_sessions(day: dt.date, *domains: str, successful: int = 1, failed: int = 0) -> None:
        datagrams = [
            f'{{"d":"{domain}","policies":[{{"policy-type":9,{result}}}]}}'.encode()
            for domain in domains
            for result in ['"f":0'] * successful + ['"failure-details":[{"c":201}],"t":1,"f":1'] * failed
        ]
        stored.count(store, day, datagrams)

    return add_sessions


@pytest.fixture
def yesterday() -> dt.date:
    """Yesterday in UTC."""
    return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
