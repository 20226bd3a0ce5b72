"""Debian packages unpacked into folders: real servers of any release, without installing one of them.

:func:`fetch` has apt work out the dependencies against an empty machine, downloads the packages, and unpacks them into
one folder, which is kept for the next time (``.lab/`` in the checkout, or ``$TLSRPT_LAB``). apt checks their signatures
with the archive's keys; its state is a folder of its own, so nothing on this machine changes. No maintainer script
runs, unless one is told to :func:`fetch`: users, configuration and spool are made by whoever starts a server in there,
on a :func:`copy`.

Known limits: only Debian, only its own mirror list; recommended packages and documentation are left out.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

FOLDER = pathlib.Path(os.environ.get("TLSRPT_LAB") or pathlib.Path(__file__).parents[2] / ".lab")
"""Where unpacked packages are kept."""

KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""The keys of Debian's archive, of later releases, too (package debian-archive-keyring)."""

MIRROR = "http://deb.debian.org/debian"
"""Used where this machine's own list of sources names none."""

PATIENCE = 240
"""Seconds for one step of apt: 40 MB over a slow line."""

RECIPE = "1"
"""Part of a folder's name; another one where the way of unpacking changes."""

MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links into usr; the package that brings them is not fetched."""

UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def missing() -> str | None:
    """Return what this machine lacks to fetch packages; ``None``: nothing."""
    absent = [program for program in ("apt-get", "dpkg-deb", "tar") if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: not a Debian"
    return None if KEYRING.exists() else f"no {KEYRING}: apt-get install debian-archive-keyring"


Install = Callable[[pathlib.Path, Sequence[pathlib.Path]], None]
"""Takes a folder with everything unpacked, and the packages."""


def fetch(suite: str, packages: Sequence[str], install: Install | None = None) -> pathlib.Path:
    """Return a folder with packages and all they depend on; it is shared: copy it before you change anything.

    Args:
        suite: a release by its code name, ``trixie``.
        packages: their names, or patterns of apt.
        install: goes on where unpacking is not enough.

    Raises:
        subprocess.CalledProcessError: apt or tar failed; what it said is on standard error.
    """
    digest = hashlib.sha256(repr((RECIPE, suite, sorted(packages))).encode()).hexdigest()[:8]
    root = FOLDER / f"{suite}-{'installed-' if install else ''}{digest}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    with _locked(root.with_suffix(".lock")):
        if not root.exists():
            _unpack(suite, packages, root, install)
    return root


def copy(root: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Return a copy of a folder, to be changed."""
    subprocess.run(["cp", "-a", "--reflink=auto", "--", root, target], check=True, timeout=PATIENCE)
    return target


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(suite: str, packages: Sequence[str], root: pathlib.Path, install: Install | None) -> None:
    apt, begun = root.with_suffix(".apt"), root.with_suffix(".begun")
    for leftover in (apt, begun):
        shutil.rmtree(leftover, ignore_errors=True)
    environment = _configure(apt, suite)
    for arguments in (["update"], ["install", "--yes", "--download-only", *packages]):
        _run(["apt-get", "-qq", *arguments], environment)
    _skeleton(begun)
    fetched = sorted((apt / "cache/archives").glob("*.deb"))
    for package in fetched:
        _run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar -xpC "$2" --keep-directory-symlink', "-", package, begun])
    for path in UNWANTED:
        shutil.rmtree(begun / path, ignore_errors=True)
    if install:
        install(begun, fetched)
    shutil.rmtree(apt)
    begun.rename(root)


def _run(command: Sequence[str | pathlib.Path], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, env=environment, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


def _configure(apt: pathlib.Path, suite: str) -> dict[str, str]:
    """Make the state of an apt that knows of no installed package; return the environment to run it in."""
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    settings = {
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::Etc::preferencesparts": apt / "parts",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    (apt / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    return {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}


def _skeleton(root: pathlib.Path) -> None:
    for folder in ("etc", "var", "run", "tmp", "dev", "proc", *(f"usr/{name}" for name in MERGED)):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        (root / name).symlink_to(f"usr/{name}")


def mirror() -> str:
    """Return where this machine gets Debian from: mirrors inside a company are the only way in some."""
    listed = [*pathlib.Path("/etc/apt").glob("sources.list.d/*"), pathlib.Path("/etc/apt/sources.list")]
    for path in listed:
        text = path.read_text() if path.is_file() else ""
        found = re.search(r"^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
        if found:
            return found[1]
    return MIRROR
