"""The laboratory for the tests of this folder, what is skipped where it cannot be, and the table at the end."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import pytest
import rich.box
import rich.console
import rich.table
from rich import text

from sender.demo import certificates
from tests.lab import exim, machine, namespace, product, roots, rows, sites, unbound, world
from tests.lab import zone as zones

POSTFIX_37 = ("bookworm", ("postfix", "systemd"))
"""Debian 12: Postfix 3.7, and the journal it logs to there."""

POSTFIX_310 = ("trixie", ("postfix", "unbound", "libtlsrpt0"))
"""Debian 13: Postfix 3.10 with libtlsrpt, and the resolver for all."""

SOURCE_ONLY = ("dkimpy",)
"""Pinned packages that there is no wheel of."""

PYTHON = "3.13"
"""Of Debian 13."""

REQUIREMENTS = product.CHECKOUT / "conf/requirements.txt"

MORE_SENDERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6")
"""Where sending servers may listen besides that of 127.0.0.1: no two at one, which Linux would let them share."""

Line = tuple[str, str, str, str]
"""Of the table: server, scenario, what the server did, what the report said."""

_TABLE = pytest.StashKey[list[Line]]()


def cannot(reason: str) -> None:
    """Skip a test; where everything must run (``CI`` in the environment), fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"nothing may be skipped here: {reason}")
    pytest.skip(reason)


def unpacked(suite: str, packages: Sequence[str]) -> pathlib.Path:
    """Return unpacked packages, to be copied; where they cannot be had or are of no use, skip the test."""
    reason = namespace.missing() or roots.missing()
    if reason:
        cannot(reason)
    try:
        with namespace.left():
            return roots.fetch(suite, packages)
    except (subprocess.SubprocessError, OSError) as error:
        cannot(f"packages of {suite} cannot be fetched: {error}")
        raise


@pytest.fixture(scope="session")
def debian() -> pathlib.Path:
    """An installed Debian 13, shared."""
    reason = namespace.missing() or roots.missing()
    if reason:
        cannot(reason)
    try:
        with namespace.left():
            return machine.installed()
    except (subprocess.SubprocessError, OSError) as error:
        cannot(f"Debian cannot be installed: {error}")
        raise


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, debian: pathlib.Path) -> pathlib.Path:
    """A folder with the pinned packages for Debian 13's Python."""
    folder = tmp_path_factory.mktemp("wheels")
    pinned = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    source = [line for line in pinned if line.partition("==")[0] in SOURCE_ONLY]
    binary = [line for line in pinned if line not in source]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    fitting = ["--only-binary", ":all:", "--python-version", PYTHON, "--dest", str(folder)]
    try:
        with namespace.left():
            for arguments in (
                ["download", "--no-deps", *fitting, *binary],
                ["wheel", "--no-deps", "--wheel-dir", str(folder), *source],
            ):
                subprocess.run([*pip, *arguments], check=True, timeout=machine.PATIENCE)
    except subprocess.SubprocessError as error:
        cannot(f"packages of Python cannot be fetched: {error}")
    return folder


@pytest.fixture(scope="session")
def postfix_310() -> pathlib.Path:
    """The unpacked packages of Debian 13, shared."""
    return unpacked(*POSTFIX_310)


@pytest.fixture(scope="session")
def postfix_37() -> pathlib.Path:
    """The unpacked packages of Debian 12 with Postfix, shared."""
    return unpacked(*POSTFIX_37)


@pytest.fixture(scope="session")
def exim_496() -> pathlib.Path:
    """The unpacked packages of Debian 12 with Exim, shared."""
    return unpacked(*exim.PACKAGES)


@pytest.fixture(scope="session")
def scratch() -> Iterator[pathlib.Path]:
    """A folder with a path so short that sockets in a queue directory below it can be bound."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tlsrpt-lab-"))
    folder.chmod(0o755)
    yield folder
    if os.environ.get("TLSRPT_LAB_KEEP"):
        return
    shutil.rmtree(folder)


@dataclasses.dataclass(frozen=True, slots=True)
class Laboratory:
    """The namespace with the receiving side in it; this process is inside."""

    world: world.World
    nameserver: str
    """``HOST:PORT`` of the validating resolver."""
    key: certificates.DkimKey
    folder: pathlib.Path
    """For roots and files of tests; short."""
    root: pathlib.Path
    """The unpacked packages of Debian 13, shared."""

    @property
    def sites(self) -> tuple[sites.Site, ...]:
        """All scenarios in their places."""
        return self.world.sites

    @property
    def authority(self) -> certificates.Authority:
        """Whom everybody trusts."""
        return self.world.authority

    @property
    def serving(self) -> Callable[..., contextlib.AbstractContextManager[product.Tlsrpt]]:
        """What runs tlsrpt here: ``product.serving``, which still takes folder and queue, and by name the rest."""
        return functools.partial(product.serving, nameserver=self.nameserver, authority=self.authority, key=self.key)


@pytest.fixture(scope="session")
def laboratory(postfix_310: pathlib.Path, scratch: pathlib.Path) -> Iterator[Laboratory]:
    """Everything but a sending server: namespace, DNS, MX servers, policy hosts, receivers of reports."""
    authority, key = certificates.Authority(), certificates.dkim_key()
    planned = sites.plan(rows.ALL, authority)
    records = sites.records(planned, key.record, product.SELECTOR)
    served = [zones.signed("example", records, sites.bogus(planned)), zones.plain("test", records)]
    resolver = roots.copy(postfix_310, scratch / "dns")
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespace.entered([*sites.addresses(planned), *MORE_SENDERS]))
        nameserver = stack.enter_context(unbound.running(resolver, served))
        receiving = stack.enter_context(world.running(planned, authority))
        yield Laboratory(receiving, nameserver, key, scratch, postfix_310)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[Line], None]:
    """Return a function that adds a line to the table at the end."""
    lines = request.config.stash.setdefault(_TABLE, [])
    return lines.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what every server did in every scenario, and what the report said."""
    lines = config.stash.get(_TABLE, [])
    if not lines:
        return
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("server", "scenario", "what the server did", "what the report said"):
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(text.Text(cell) for cell in line))
    width = shutil.get_terminal_size((160, 24)).columns
    console = rich.console.Console(width=max(width, 120), force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    terminalreporter.section("laboratory")
    terminalreporter.write(capture.get())
