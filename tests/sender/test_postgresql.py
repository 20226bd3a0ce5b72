"""What is special about PostgreSQL: several writers at once, and a server that is away, full or read-only."""

import collections
import concurrent.futures
import datetime as dt
import functools
import pathlib
import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa
from alembic import autogenerate, migration

from policy import tlsrpt
from sender import closing, config, counting, outcome
from sender.store import closings, counts, deliveries, engine, hosts, locks, partitions, reports, retention, schema
from tests import postgresql, stored

DAY = dt.date(2026, 11, 23)
NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
WRITERS = 8


@pytest.fixture
def store_url(postgresql_url: str) -> str:
    """On PostgreSQL only."""
    return postgresql_url


def datagram(domain: str, reason: str = "") -> bytes:
    """Return a session, with a reason a failed one."""
    result = f'"failure-details":[{{"c":201,"f":"{reason}"}}],"t":1,"f":1' if reason else '"f":0'
    return f'{{"d":"{domain}","policies":[{{"policy-type":9,{result}}}]}}'.encode()


def at_once(work: Sequence[concurrent.futures.Future[None]]) -> None:
    """Wait for threads; the first error is raised."""
    for future in work:
        future.result(60)


def test_hosts_that_add_to_the_same_domains_do_not_block_each_other(store: engine.Store) -> None:
    """Each in another order, with failures in common: the sums are exact, and no deadlock was broken up."""
    names = [f"d{number}.example" for number in range(50)]
    partitions.prepare(store, DAY)

    def write(seed: int) -> None:
        shuffled = random.Random(seed).sample(names, len(names))
        for number in range(5):
            chosen = [datagram(name, f"reason {number}" if index % 2 else "") for index, name in enumerate(shuffled)]
            counted = counting.count(collections.Counter([*chosen, b"nonsense"]))
            store.change(functools.partial(counts.add, journal=str(seed % 2), day=DAY, counts=counted))

    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        at_once([pool.submit(write, seed) for seed in range(WRITERS)])
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.domain_days.c.successful + schema.domain_days.c.failed)).scalars()
        assert list(rows) == [5 * WRITERS] * len(names)
        sums = counts.sums_by_day(connection, DAY)[DAY]
        assert (sums.successful, sums.failed) == (5 * WRITERS * 25, 5 * WRITERS * 25)
        assert sums.failures.total() == 5 * WRITERS * 25
        assert connection.execute(sa.select(sa.func.sum(schema.failures.c.sessions))).scalar() == 5 * WRITERS * 25
        assert deadlocks(connection) == 0


def deadlocks(connection: sa.Connection) -> int:
    """Return how often PostgreSQL ended a transaction because two waited for each other."""
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(connection.execute(sa.text(query)).scalar_one())


def test_what_is_added_while_a_day_closes_is_in_the_closing_or_behind_it(store: engine.Store) -> None:
    """Nothing lands in a closing that is over: each sum that a closing took stays what it was."""
    partitions.prepare(store, DAY)
    stop = threading.Event()

    def write() -> int:
        number = 0
        while not stop.is_set():
            stored.count(store, DAY, [datagram("a.example")])
            number += 1
        return number

    taken: dict[int, int] = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write) for _ in range(4)]
        try:
            for _ in range(20):
                store.change(lambda connection: closings.close(connection, DAY))
                with store.read() as connection:
                    for one in reports.undecided(connection, 999):
                        assert taken.setdefault(one.closing, one.successful) == one.successful
        finally:
            stop.set()
        written = sum(future.result(60) for future in writers)
    store.change(lambda connection: closings.close(connection, DAY))
    with store.read() as connection:
        assert sum(one.successful for one in reports.undecided(connection, 999)) == written
    assert len(taken) > 1


def test_of_reporters_that_close_at_once_one_does(store: engine.Store) -> None:
    """A day that is closed twice at once would have sessions of the moment between in a report of their own."""
    stored.count(store, DAY, [datagram("a.example")])
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        with store.write() as connection:
            locks.together(connection, DAY)  # somebody counts, so that all of them have to wait
            closing_ = [pool.submit(closing.close, store, DAY) for _ in range(WRITERS)]
            deadline = time.monotonic() + 30
            while connection.execute(waiting).scalar_one() < WRITERS:
                assert time.monotonic() < deadline, "waited too long"
        closed = [one.result(60) for one in closing_]
    assert sorted(closed) == [[]] * (WRITERS - 1) + [[DAY]]
    with store.read() as connection:
        assert closings.closed(connection, DAY).every == 1


def test_reporters_share_domain_days(store: engine.Store) -> None:
    """Each is claimed by one, until the lease is over or given back."""
    stored.count(store, DAY, [datagram(f"d{number}.example") for number in range(9)])
    store.change(lambda connection: closings.close(connection, DAY))
    first = store.change(lambda connection: reports.claim(connection, NOON, 4))
    second = store.change(lambda connection: reports.claim(connection, NOON, 9))
    assert [len(first), len(second)] == [4, 5]
    assert not set(first) & set(second)
    assert store.change(lambda connection: reports.claim(connection, NOON, 9)) == []
    store.change(lambda connection: reports.release(connection, first))
    assert store.change(lambda connection: reports.claim(connection, NOON, 9)) == first
    assert len(store.change(lambda connection: reports.claim(connection, NOON + reports.LEASE, 9))) == 9


def test_what_another_one_is_claiming_is_not_waited_for(store: engine.Store) -> None:
    """Two transactions that are open at the same time claim different deliveries and domain-days."""
    stored.count(store, DAY, [datagram(f"d{number}.example") for number in range(4)])
    store.change(lambda connection: closings.close(connection, DAY))
    put_deliveries(store, 4)
    with store.write() as one, store.write() as other:
        assert [len(deliveries.claim(each, NOON, 2)) for each in (one, other, other)] == [2, 2, 0]
        assert [len(reports.claim(each, NOON, 2)) for each in (one, other, other)] == [2, 2, 0]


def put_deliveries(store: engine.Store, number: int) -> None:
    """Put reports with a due delivery each into the store."""
    (rua,) = tlsrpt.parse_record("v=TLSRPTv1;rua=mailto:r@a.example").rua

    def put(connection: engine.Connection) -> None:
        for place in range(number):
            report_id = f"{place:02}@s.example"
            reports.add(connection, [reports.Report(report_id, DAY, "a.example", NOON, 1, 0, b"packed")])
            deliveries.add(connection, [deliveries.Addressed(report_id, DAY, "a.example", [(rua, NOON)])])

    store.change(put)


def test_two_that_decide_the_same_domain_day_make_one_report(store: engine.Store) -> None:
    """The second waits for the first, and finds it decided."""
    stored.count(store, DAY, [datagram("a.example")])
    store.change(lambda connection: closings.close(connection, DAY))
    with store.read() as connection:
        (one,) = reports.undecided(connection, 9)
    barrier = threading.Barrier(WRITERS)

    def decide(number: int) -> bool:
        barrier.wait(30)

        def work(connection: engine.Connection) -> bool:
            mine = bool(reports.settle(connection, [(one, schema.REPORTED, None)]))
            if mine:
                reports.add(connection, [reports.Report(f"{number}@s.example", DAY, one.domain, NOON, 1, 0, b"packed")])
            return mine

        return store.change(work)

    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        assert sum(pool.map(decide, range(WRITERS))) == 1
    with store.read() as connection:
        assert len(reports.of_domain(connection, one.domain, DAY)) == 1


def test_a_change_that_meets_another_one_is_made_anew(store: engine.Store) -> None:
    """Two reports about the same domain and day at once: both get a revision of their own."""
    barrier = threading.Barrier(2)
    calls: list[int] = []

    def add(number: int) -> None:
        def work(connection: engine.Connection) -> None:
            reports.of_domain(connection, "a.example", DAY)
            calls.append(number)
            if len(calls) <= 2:
                barrier.wait(30)
            reports.add(connection, [reports.Report(f"{number}@s.example", DAY, "a.example", NOON, 1, 0, b"packed")])

        store.change(work)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        at_once([pool.submit(add, number) for number in range(2)])
    assert len(calls) == 3
    with store.read() as connection:
        assert [one.revision for one in reports.of_domain(connection, "a.example", DAY)] == [1, 2]


def test_a_host_is_told_when_the_last_reporter_has_decided(store: engine.Store) -> None:
    """What one has at hand still keeps the others from telling a part; what waits for the DNS does not."""
    tlsa = b'{"d":"%b","policies":[{"policy-type":1,"policy-domain":"mx.p.example","f":0}]}'
    stored.count(store, DAY, [tlsa % b"a.example", tlsa % b"b.example"])
    store.change(lambda connection: closings.close(connection, DAY))
    first = store.change(lambda connection: reports.claim(connection, NOON, 1))
    second = store.change(lambda connection: reports.claim(connection, NOON, 1))
    store.change(lambda connection: reports.settle(connection, [(first[0], schema.SKIPPED, "no record")]))
    with store.read() as connection:
        assert hosts.untold(connection, 9) == []
    store.change(lambda connection: reports.settle(connection, [(second[0], schema.UNDECIDED, "the DNS is away")]))
    with store.read() as connection:
        assert hosts.untold(connection, 9) == [hosts.HostDay(DAY, "mx.p.example")]


def test_a_day_has_tables_of_its_own_which_are_dropped_with_it(store: engine.Store) -> None:
    """Made once, whoever comes first; dropping them is what retention does."""
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        at_once([pool.submit(partitions.prepare, store, DAY) for _ in range(WRITERS)])
    stored.count(store, DAY, [datagram("a.example", "reason")])
    stored.count(store, DAY + dt.timedelta(days=1), [datagram("a.example", "reason")])
    with store.read() as connection:
        assert tables_of_days(connection) == 6
    store.change(lambda connection: retention.delete_before(connection, DAY + dt.timedelta(days=1)))
    with store.read() as connection:
        assert tables_of_days(connection) == 3
        assert list(connection.execute(sa.select(schema.failures.c.day)).scalars()) == [DAY + dt.timedelta(days=1)]


def tables_of_days(connection: sa.Connection) -> int:
    """Return how many tables are part of another one."""
    query = "SELECT count(*) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"
    return int(connection.execute(sa.text(query)).scalar_one())


def test_several_processes_may_make_the_tables_at_once(postgresql_server: postgresql.Server) -> None:
    """Those who come second find them made."""
    postgresql_server.run("CREATE DATABASE empty TEMPLATE template0")
    try:
        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            stores = list(pool.map(lambda _: engine.open_store(postgresql_server.url("empty")), range(WRITERS)))
        with stores[0].read() as connection:
            context = migration.MigrationContext.configure(connection)
            assert autogenerate.compare_metadata(context, schema.metadata) == []
        for one in stores:
            one.close()
    finally:
        postgresql_server.run("DROP DATABASE empty WITH (FORCE)")


# id, URL (%s: the folder of a server's socket), what the error says
AWAY = [
    ("nobody listens", "postgresql://u:secret@127.0.0.1:1/db", "postgresql://u:***@127.0.0.1:1/db: "),
    ("no such socket", "postgresql://u@/db?host=/nonexistent&password=secret", "postgresql://u@/db: "),
    ("no such database", "postgresql://tlsrpt@/none?host=%s", 'database "none" does not exist'),
    ("no such user", "postgresql://nobody@/postgres?host=%s", 'role "nobody" does not exist'),
    ("an unknown parameter", "postgresql://tlsrpt@/postgres?host=%s&speed=high", "speed"),
]


@pytest.mark.parametrize(("url", "expected"), [row[1:] for row in AWAY], ids=[row[0] for row in AWAY])
def test_a_server_that_cannot_be_used_is_one_line_without_the_password(
    postgresql_server: postgresql.Server, url: str, expected: str
) -> None:
    """Wherever the password stands in the URL."""
    with pytest.raises(engine.StoreError) as caught:
        engine.open_store(url.replace("%s", str(postgresql_server.folder)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgresql.Server]:
    """A server that a test may stop."""
    if postgresql.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgresql.start() as server:
        yield server


def test_a_server_that_was_restarted_is_used_again(own_server: postgresql.Server) -> None:
    """While it is away all is an error; what was committed is there, what was not is not."""
    store = engine.open_store(own_server.url("postgres"))
    stored.count(store, DAY, [datagram("a.example")])

    def interrupted(connection: engine.Connection) -> None:
        counts.add(connection, "journal", DAY, counting.count(collections.Counter([datagram("a.example")])))
        own_server.stop("immediate")

    with pytest.raises(engine.StoreError):
        store.change(interrupted)
    with pytest.raises(engine.StoreError):
        stored.count(store, DAY, [datagram("a.example")])
    own_server.start()
    stored.count(store, DAY, [datagram("a.example")])
    with store.read() as connection:
        assert connection.execute(sa.select(schema.domain_days.c.successful)).scalars().all() == [2]
    store.close()


def test_after_a_failover_the_new_primary_is_used(own_server: postgresql.Server) -> None:
    """A standby alone is told in one line; with both in the URL, whichever may be written to is found."""
    with postgresql.start_standby(own_server) as standby:
        with pytest.raises(engine.StoreError, match="read-only") as caught:
            engine.open_store(standby.url("postgres"))
        assert "\n" not in str(caught.value)
        store = engine.open_store(f"{standby.url('postgres')}&host={own_server.folder}")
        stored.count(store, DAY, [datagram("failover.example")])
        standby.wait_until_caught_up(own_server)
        own_server.stop("immediate")
        try:
            with pytest.raises(engine.StoreError):
                stored.count(store, DAY, [datagram("failover.example")])
            standby.promote()
            stored.count(store, DAY, [datagram("failover.example")])
            with store.read() as connection:
                query = sa.select(schema.domain_days.c.successful).where(
                    schema.domain_days.c.domain == "failover.example"
                )
                assert connection.execute(query).scalars().all() == [2]
            store.close()
        finally:
            own_server.start()


def test_a_full_disk_is_told_and_loses_nothing(own_server: postgresql.Server) -> None:
    """A quota stands in for the disk: what was not committed is not there, and goes in once there is room."""
    own_server.run("CREATE DATABASE narrow")
    store = engine.open_store(own_server.url("narrow"))
    partitions.prepare(store, DAY)
    own_server.run(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE disk_full USING MESSAGE = 'could not extend file: No space left on device'; END $$;"
        "CREATE TRIGGER no_room BEFORE INSERT ON failures FOR EACH ROW EXECUTE FUNCTION no_room()",
        "narrow",
    )
    with pytest.raises(engine.StoreError, match="No space left on device"):
        stored.count(store, DAY, [datagram("a.example", "reason")])
    own_server.run("DROP TRIGGER no_room ON failures", "narrow")
    with store.read() as connection:
        assert connection.execute(sa.select(schema.domain_days.c.domain)).all() == []
    stored.count(store, DAY, [datagram("a.example", "reason")])
    store.close()


def test_a_delivery_is_noted_whatever_order_two_reporters_note_in(store: engine.Store) -> None:
    """Each transaction takes its rows in the order of the key: no deadlock."""
    put_deliveries(store, 20)
    claimed = store.change(lambda connection: deliveries.claim(connection, NOON, 20))
    step = outcome.Again(NOON, "later")

    def note(seed: int) -> None:
        for _ in range(10):
            mixed = [(one, NOON, step) for one in random.Random(seed).sample(claimed, len(claimed))]
            store.change(functools.partial(deliveries.note_all, ended=mixed))

    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        at_once([pool.submit(note, seed) for seed in range(WRITERS)])
    with store.read() as connection:
        assert deadlocks(connection) == 0


def test_a_url_of_a_server_is_checked_without_connecting(tmp_path: pathlib.Path) -> None:
    """``tlsrpt serve`` begins while the server is away."""
    assert engine.check_url("postgresql://u@db.example/tlsrpt?sslmode=verify-full").host == "db.example"
    with pytest.raises(config.ConfigError, match=r"store\.url"):
        engine.check_url("postgresql+asyncpg://u@db.example/tlsrpt")
    assert list(tmp_path.iterdir()) == []
