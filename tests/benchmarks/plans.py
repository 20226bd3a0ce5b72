"""What PostgreSQL does for each hot statement, on a store of a million domain-days: for docs/scale.md.

``python -m tests.benchmarks.plans`` prints each statement of each operation once, with its plan.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from sender.store import engine
from tests import postgresql
from tests.sender import test_plans

SIZE = test_plans.Size(days=8, domains=100_000)

WIDTH = 150
"""Letters of a line that are shown."""

BORING = re.compile(r"Planning|Buffers|Heap Fetches|Rows Removed|Batches|Sort Method|Recheck|Heap Blocks")


def plans(store: engine.Store, name: str) -> Iterator[str]:
    """Yield the statements of an operation, each with its plan."""
    seen: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, ___: object, many: bool) -> None:  # noqa: FBT001 - called so
        if (
            statement.split(maxsplit=1)[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}
            and "FROM closings" not in statement
        ):
            seen.append((statement, parameters[0] if many else parameters))

    with test_plans.undone(store) as connection:
        sa.event.listen(connection, "before_cursor_execute", note)
        dict(test_plans.OPERATIONS)[name](connection)
        sa.event.remove(connection, "before_cursor_execute", note)
    told: set[str] = set()
    with test_plans.undone(store) as connection:
        for statement, parameters in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}", parameters)
            lines = [line[:WIDTH] for line in plan.scalars() if not BORING.search(line)]
            if statement not in told:
                told.add(statement)
                yield "\n".join([" ".join(statement.split())[:WIDTH], *lines])


def main() -> int:
    """Print all."""
    with postgresql.start({"shared_buffers": "512MB", "max_wal_size": "4GB"}) as server:
        store = engine.open_store(server.url("postgres"))
        test_plans.fill(store, SIZE)
        for name, operation in test_plans.OPERATIONS:
            print(f"## {name}: {test_plans.cost(store, operation) / 100:,.0f} pages\n")  # noqa: T201 - this is a command
            for plan in plans(store, name):
                print(f"{plan}\n")  # noqa: T201 - this is a command
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
