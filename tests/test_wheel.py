"""The wheel, as users get it: built, installed into an environment of its own, and run outside of the checkout."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
from packaging import requirements, utils

CHECKOUT = pathlib.Path(__file__).parents[1]
TIMEOUT = 300.0
"""Seconds for each step; an installation from a slow index takes one minute."""

UNREACHABLE = ("No matching distribution found", "Could not install packages due to an OSError", "timed out")
"""What pip says when there is no index, or none that has the dependencies."""

pytestmark = pytest.mark.xdist_group("wheel")


def run(
    *command: str | pathlib.Path, folder: pathlib.Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is one text."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        cwd=folder,
        env=environment,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder=CHECKOUT)
    assert done.returncode == 0, done.stdout
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_all_the_program_needs_and_no_more(wheel: pathlib.Path) -> None:
    """Every module and data file of both rooms; no tests, no configuration."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    rooms = [path for room in ("sender", "policy") for path in (CHECKOUT / room).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(CHECKOUT)) for path in rooms if "__pycache__" not in path.parts}
    assert names == expected
    assert {"sender/rfc8460.schema.json", "sender/store/migrations/versions/0001_first.py"} <= names


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the programs of a new environment with the wheel and its pinned dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    requirements = CHECKOUT / "conf" / "requirements.txt"
    done = run(folder / "bin" / "python", "-m", "pip", "install", "-r", requirements, wheel, folder=folder)
    if done.returncode and "CI" not in os.environ and any(text in done.stdout for text in UNREACHABLE):
        pytest.skip(f"pip cannot reach an index: {done.stdout.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout
    return folder / "bin"


def test_the_installed_command_tells_its_version(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """That of ``pyproject.toml``, without the checkout, without any variable."""
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    done = run(installed / "tlsrpt", "--version", folder=tmp_path, environment={})
    assert (done.returncode, done.stdout) == (0, f"tlsrpt {version}\n")


def test_the_installed_command_shows_the_demo(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Sessions, a report, receivers that are satisfied; nothing is left behind where it was run."""
    done = run(installed / "tlsrpt", "demo", folder=tmp_path, environment={"TMPDIR": "/tmp"})
    assert done.returncode == 0, done.stdout
    assert "The report that failover.example received" in done.stdout
    assert "certificate-expired" in done.stdout
    assert re.search(r"^[1-9]\d* reports by mail: .*✓ DKIM signature", done.stdout, re.MULTILINE)
    assert re.search(r"^[1-9]\d* reports by HTTPS: .*✓ ", done.stdout, re.MULTILINE)
    assert "✗" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_package_is_pinned() -> None:
    """All that ours need, and what these need in turn: an installation of today is one of next year."""
    pinned = {
        canonical(line.partition("==")[0])
        for path in ("conf/requirements.txt", "tests/requirements.txt")
        for line in (CHECKOUT / path).read_text().splitlines()
        if "==" in line
    }
    needed: set[str] = set()
    waiting = ["tlsrpt", *pinned]
    while waiting:
        name = waiting.pop()
        for text in metadata.requires(name) or ():
            one = requirements.Requirement(text)
            wanted = canonical(one.name)
            extra = "binary" if name == "tlsrpt" or wanted.startswith("psycopg") else ""
            if wanted not in needed and (one.marker is None or one.marker.evaluate({"extra": extra})):
                needed.add(wanted)
                waiting.append(wanted)
    assert needed - pinned == set()


def canonical(name: str) -> str:
    """Return the name of a package as comparisons need it."""
    return utils.canonicalize_name(name)
