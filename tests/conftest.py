"""What tests of both rooms share."""

import asyncio
import dataclasses
import datetime as dt
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Awaitable, Callable, Iterator

import jsonschema
import pytest

from sender import building, config, daily, report
from sender.demo import internet
from sender.store import engine
from tests import postgresql

DATA = pathlib.Path(__file__).parent / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``both_stores`` on both, but for what is marked ``sqlite_store``."""
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    if "store_url" in metafunc.fixturenames and "both_stores" in marked and "sqlite_store" not in marked:
        metafunc.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server; skips where none is installed, but not in CI."""
    if postgresql.programs() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgresql.start() as server:
        engine.open_store(server.url("postgres")).close()  # makes the tables
        server.run("CREATE DATABASE template_tlsrpt TEMPLATE postgres", "template1")
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.Server) -> Iterator[str]:
    """The URL of an empty database with all tables."""
    name = f"test_{secrets.token_hex(6)}"
    postgresql_server.run(f"CREATE DATABASE {name} TEMPLATE template_tlsrpt")
    yield postgresql_server.url(name)
    postgresql_server.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """The URL of an empty store: SQLite in a file of its own, and where ``both_stores`` says so PostgreSQL."""
    if getattr(request, "param", "sqlite") == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'tlsrpt.db'}"


@pytest.fixture
def store(store_url: str) -> Iterator[engine.Store]:
    """An empty store."""
    opened = engine.open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def captures() -> dict[str, list[bytes]]:
    """The datagrams that Postfix 3.10 sent in 50 scenarios, by the scenario's label."""
    lines = (DATA / "postfix-3.10.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["label"]: [datagram.encode() for datagram in row["datagrams"]] for row in rows}


@dataclasses.dataclass
class Clock:
    """A clock that a test moves."""

    now: dt.datetime = dt.datetime(2026, 11, 24, 0, 5, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        """Return the time."""
        return self.now

    def pass_(self, **span: float) -> None:
        """Let time pass."""
        self.now += dt.timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    """Five minutes past midnight, when the day before has just settled."""
    return Clock()


Scenario = Callable[[internet.Internet, daily.Daily], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def in_internet(tmp_path: pathlib.Path, store_url: str, store: engine.Store, clock: Clock) -> Run:
    """Return what runs a scenario in a made-up internet, with the parts of the daily job."""

    async def within(scenario: Scenario) -> None:
        tokens = itertools.count(1)
        chance = building.Chance(token=lambda: f"{next(tokens)}", fraction=lambda: 0.5)
        async with internet.start(tmp_path, ()) as net:
            text = net.config_text(store_url)
            (tmp_path / "tlsrpt.toml").write_text(text)
            settings = config.parse(text, {})
            async with daily.open_daily(settings, store, clock=clock, chance=chance) as job:
                await scenario(net, job)

    return lambda scenario: asyncio.run(within(scenario))


@pytest.fixture(scope="session")
def schema() -> jsonschema.protocols.Validator:
    """The JSON Schema of a report."""
    path = pathlib.Path(report.__file__).with_name("rfc8460.schema.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))
