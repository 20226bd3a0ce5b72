"""What tests of both rooms share."""

import asyncio
import dataclasses
import datetime as dt
import itertools
import json
import pathlib
from collections.abc import Awaitable, Callable, Iterator

import jsonschema
import pytest

from sender import building, config, daily, report
from sender.demo import internet
from sender.store import engine

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[engine.Store]:
    """An empty store in a file of its own."""
    opened = engine.open_store(f"sqlite:///{tmp_path / 'tlsrpt.db'}")
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
def in_internet(tmp_path: pathlib.Path, store: engine.Store, clock: Clock) -> Run:
    """Return what runs a scenario in a made-up internet, with the parts of the daily job."""

    async def within(scenario: Scenario) -> None:
        tokens = itertools.count(1)
        chance = building.Chance(token=lambda: f"{next(tokens)}", fraction=lambda: 0.5)
        async with internet.start(tmp_path, ()) as net:
            (tmp_path / "tlsrpt.toml").write_text(net.config_text())
            settings = config.parse(net.config_text(), {})
            async with daily.open_daily(settings, store, clock=clock, chance=chance) as job:
                await scenario(net, job)

    return lambda scenario: asyncio.run(within(scenario))


@pytest.fixture(scope="session")
def schema() -> jsonschema.protocols.Validator:
    """The JSON Schema of a report."""
    path = pathlib.Path(report.__file__).with_name("rfc8460.schema.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))
