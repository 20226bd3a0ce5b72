"""A Debian 13 in a folder, made by debootstrap: with its package manager, to be installed into as on a real one.

Packages come from where this machine gets its own, and so do those of pip: what that needs is lent to the root.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from tests.lab import roots

SUITE = "trixie"

PATIENCE = 600
"""Seconds for a step: packages over a slow line."""

LENT = ("pip.conf", "apt/apt.conf.d/99*", "hosts", "resolv.conf")
"""Files below /etc of this machine that apt and pip may need."""

ANCHORS = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
"""Whom this machine trusts, and so does pip in the root; its own anchors stay as they are."""

LENT_ANCHORS = "/etc/ssl/lent.pem"


def missing() -> str | None:
    """Return what this machine lacks; ``None``: nothing."""
    lacking = roots.missing()
    if lacking is None and shutil.which("debootstrap") is None:
        return "no debootstrap: apt-get install debootstrap"
    return lacking


def installed(root: pathlib.Path, included: Sequence[str] = ()) -> pathlib.Path:
    """Make a Debian 13.

    Args:
        root: the folder; it is made.
        included: packages beside the smallest set.
    """
    options = ["--variant=minbase", f"--keyring={roots.KEYRING}"]
    options += [f"--include={','.join(included)}"] if included else []
    command: list[str | pathlib.Path] = ["debootstrap", *options, SUITE, root, roots._mirror()]
    subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    lend(root)
    return root


def lend(root: pathlib.Path) -> None:
    """Have apt and pip get their packages as on this machine."""
    for pattern in LENT:
        for file in pathlib.Path("/etc").glob(pattern):
            target = root / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(file, target)
    (root / LENT_ANCHORS.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ANCHORS, root / LENT_ANCHORS.lstrip("/"))


def environment() -> dict[str, str]:
    """Return the environment of a root's shell; with how pip gets its packages here, if that is told at all."""
    kept = {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower().endswith("_proxy")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        **kept,
        "PIP_CERT": LENT_ANCHORS,
        "PATH": path,
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
    }


@contextlib.contextmanager
def mounted(root: pathlib.Path) -> Iterator[None]:
    """Have /proc in a root."""
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", root / "proc"], check=True)


def checked_out(checkout: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a checkout without what was made in it."""
    made = (".venv", ".lab", ".git", ".bench", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "dist")
    shutil.copytree(checkout, target, ignore=shutil.ignore_patterns(*made, "__pycache__"))
