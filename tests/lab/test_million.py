"""A million domain-days on PostgreSQL: what is done often stays a look-up in an index, by the plans it chooses."""

from collections.abc import Iterator

import pytest

from sender.store import engine
from tests import postgresql
from tests.lab.conftest import cannot
from tests.sender import test_plans

SIZE = test_plans.Size(days=8, domains=100_000)

MOST = 2000
"""Pages that an operation may touch; a day has some 5,000."""

MOST_FOR_A_ROW = 50
"""Pages that may be touched for each row that is changed: of its table, and of each index from the top."""

CHANGING = {"claiming domain-days", "claiming domain-days, further on", "deciding", "counting"}
"""What changes :data:`test_plans.BATCH` rows."""


@pytest.fixture(scope="module")
def million() -> Iterator[engine.Store]:
    """A store with a million domain-days."""
    if postgresql.programs() is None:
        cannot("no PostgreSQL: apt-get install postgresql")
    with postgresql.start({"shared_buffers": "512MB", "max_wal_size": "4GB"}) as server:
        store = engine.open_store(server.url("postgres"))
        test_plans.fill(store, SIZE)
        yield store
        store.close()


def test_nothing_is_searched(million: engine.Store) -> None:
    """Each operation of the daily life, by the pages that it touches."""
    assert test_plans.size_of(million) >= 1_000_000
    costs = {name: test_plans.cost(million, operation) / 100 for name, operation in test_plans.OPERATIONS}
    allowed = {name: MOST_FOR_A_ROW * test_plans.BATCH if name in CHANGING else MOST for name in costs}
    assert {name: pages for name, pages in costs.items() if pages > allowed[name]} == {}
