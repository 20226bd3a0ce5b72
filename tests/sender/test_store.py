"""The store: exactly once, closed for ever, each delivery a row of its own."""

import collections
import datetime as dt
import pathlib
import sqlite3

import pytest
import sqlalchemy as sa
from alembic import autogenerate, migration

from policy import tlsrpt
from sender import config, counting, outcome, report
from sender.session import PolicyType
from sender.store import (
    closings,
    counts,
    deliveries,
    engine,
    hosts,
    listings,
    migrate,
    overviews,
    reports,
    retention,
    schema,
)
from tests import stored

pytestmark = pytest.mark.both_stores

DAY = dt.date(2026, 11, 23)
NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
RECORD = "v=TLSRPTv1;rua=mailto:r@a.example"


def _datagram(domain: str = "a.example", *, failed: int = 0, mx: str = "mx.a.example", kind: int = 9) -> bytes:
    detail = f',"failure-details":[{{"c":201,"n":"{mx}"}}]' if failed else ""
    policy_domain = mx if kind == 1 else domain
    policy = f'{{"policy-type":{kind},"policy-domain":"{policy_domain}"{detail},"t":{failed},"f":{failed}}}'
    return f'{{"d":"{domain}","pr":"{RECORD}","policies":[{policy}]}}'.encode()


def _add(store: engine.Store, *datagrams: bytes, day: dt.date = DAY) -> None:
    stored.count(store, day, datagrams)


def _close(store: engine.Store, domain: str = closings.EVERY_DOMAIN, day: dt.date = DAY) -> None:
    with store.write() as connection:
        closings.close(connection, day, domain)


def _undecided(store: engine.Store) -> list[tuple[str, int, int, int]]:
    with store.read() as connection:
        found = reports.undecided(connection, 99)
    return sorted((one.domain, one.closing, one.successful, one.failed) for one in found)


def test_the_migrations_make_what_the_code_expects(store: engine.Store) -> None:
    """A new database has exactly the tables and indexes of the schema."""
    with store.read() as connection:
        assert autogenerate.compare_metadata(migration.MigrationContext.configure(connection), schema.metadata) == []


def test_sums_of_what_was_counted_before_are_made_by_the_migration(store: engine.Store) -> None:
    """A store of the version before: the same sums as if they had been counted with the counts."""
    _add(store, _datagram(), _datagram(failed=1), _datagram("b.example", failed=1))
    _add(store, _datagram("b.example"), day=DAY - dt.timedelta(days=1))
    with store.write() as connection:
        before = counts.sums_by_day(connection, DAY - dt.timedelta(days=9))
        assert before[DAY] == counts.Sums(1, 2, collections.Counter({"starttls-not-supported": 2}))
        schema.sums.drop(connection)
        for later in ("bounced", "bounce"):
            connection.execute(sa.text(f"ALTER TABLE deliveries DROP COLUMN {later}"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0003'"))
    migrate.upgrade(store._engine)
    with store.read() as connection:
        assert counts.sums_by_day(connection, DAY - dt.timedelta(days=9)) == before


def test_a_domain_is_one_row_of_the_page_whatever_was_closed(store: engine.Store) -> None:
    """Before the day is closed, after it was for one domain, and with what came later."""
    _add(store, _datagram(), _datagram("b.example", failed=1))
    assert _domains(store) == [("b.example", 0, 1), ("a.example", 1, 0)]
    _close(store, "a.example")
    _add(store, _datagram(failed=1), _datagram(failed=1))
    assert _domains(store) == [("a.example", 1, 2), ("b.example", 0, 1)]
    _close(store)
    _add(store, _datagram("b.example"), _datagram("c.example"))
    assert _domains(store) == [("a.example", 1, 2), ("b.example", 1, 1), ("c.example", 1, 0)]


def _domains(store: engine.Store) -> list[tuple[str, int, int]]:
    with store.read() as connection:
        return [(row.domain, row.successful, row.failed) for row in overviews.domains(connection, DAY, 9)]


def test_sums_are_deleted_with_the_counts(store: engine.Store) -> None:
    """The plot is as long as what is kept."""
    _add(store, _datagram())
    with store.write() as connection:
        retention.delete_before(connection, DAY + dt.timedelta(days=1))
        assert counts.sums_by_day(connection, DAY) == {}


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: pathlib.Path) -> None:
    """Going back to an older program is an error, not a loss."""
    url = f"sqlite:///{tmp_path / 'tlsrpt.db'}"
    engine.open_store(url).close()
    with sqlite3.connect(tmp_path / "tlsrpt.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(engine.StoreError, match="made by a newer tlsrpt"):
        engine.open_store(url)


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle://u:secret@x/y", "sqlite://", "sqlite:///:memory:", "postgresql://u:secret@x"]
)
def test_a_url_of_no_store_is_a_mistake_in_the_configuration(url: str) -> None:
    """One line that names key, value and cure, without the password."""
    with pytest.raises(config.ConfigError, match=r"store.url.*: use sqlite:////") as caught:
        engine.open_store(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.sqlite_store
def test_others_cannot_read_whom_we_send_mail_to(store: engine.Store, tmp_path: pathlib.Path) -> None:
    """The database and what SQLite keeps beside it are for owner and group only, whatever the directory allows."""
    _add(store, _datagram())
    files = list(tmp_path.glob("tlsrpt.db*"))
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}


def test_a_directory_that_cannot_be_made_is_an_error() -> None:
    """The postmaster is told which."""
    with pytest.raises(engine.StoreError, match=r"^/proc/none: cannot be made"):
        engine.open_store("sqlite:////proc/none/x.db")


def test_a_file_that_is_no_database_is_an_error(tmp_path: pathlib.Path) -> None:
    """It is not overwritten."""
    (tmp_path / "x.db").write_text("something else, and long enough to be looked at" * 100)
    with pytest.raises(engine.StoreError, match="not a database"):
        engine.open_store(f"sqlite:///{tmp_path / 'x.db'}")
    assert (tmp_path / "x.db").read_text().startswith("something else")


def test_a_position_moves_only_from_where_it_stands(store: engine.Store) -> None:
    """Of two processes that counted the same stretch only the first may commit."""
    with store.write() as connection:
        assert counts.advance(connection, "host", "segment", DAY, start=0, end=10)
        assert not counts.advance(connection, "host", "segment", DAY, start=0, end=10)
        assert counts.advance(connection, "other", "segment", DAY, start=0, end=7)
    with store.read() as connection:
        assert counts.position(connection, "host", "segment") == 10
        assert counts.position(connection, "host", "none") == 0


def test_counts_add_up(store: engine.Store, captures: dict[str, list[bytes]]) -> None:
    """What is added in two goes is what one go would have made, failures and policies included."""
    datagrams = [datagram for several in captures.values() for datagram in several]
    _add(store, *datagrams, *datagrams)
    _add(store, *datagrams)
    _close(store)
    expected = counting.count(collections.Counter(datagrams * 3)).domains
    with store.read() as connection:
        for one in reports.undecided(connection, 999):
            domain = expected.pop(one.domain)
            assert (one.successful, one.failed) == (domain.successful, domain.failed)
            found = {count.policy: count for count in reports.counted(connection, [one])[one].by_policy()}
            assert found == {
                policy: report.PolicyCount(policy, numbers.successful, numbers.failed, found[policy].failures)
                for policy, numbers in domain.policies.items()
            }
            for policy, numbers in domain.policies.items():
                assert dict(found[policy].failures) == numbers.failures
    assert not expected


def test_the_store_is_bounded_over_many_batches(store: engine.Store) -> None:
    """A server that gives another reason each time gets no further than the bound, and no session is lost."""
    for start in range(0, 1500, 300):
        _add(store, *(_datagram(failed=1, mx=f"mx{number}.a.example") for number in range(start, start + 300)))
    _close(store)
    with store.read() as connection:
        (one,) = reports.undecided(connection, 9)
        (count,) = reports.counted(connection, [one])[one].by_policy()
    assert (one.failed, count.failed) == (1500, 1500)
    assert len(count.failures) == counting.MAX_FAILURES + 1
    assert sum(sessions for _, sessions in count.failures) == 1500


def test_what_comes_after_a_closing_belongs_to_the_next(store: engine.Store) -> None:
    """Closed counts never change; each closing takes what came since."""
    _add(store, _datagram())
    assert _undecided(store) == []
    _close(store)
    _add(store, _datagram(), _datagram())
    assert _undecided(store) == [("a.example", 1, 1, 0)]
    _close(store)
    assert _undecided(store) == [("a.example", 1, 1, 0), ("a.example", 2, 2, 0)]


def test_closing_one_domain_leaves_the_others_open(store: engine.Store) -> None:
    """The day then closes for all, and nothing is missed or taken twice."""
    _add(store, _datagram("a.example"), _datagram("b.example"))
    _close(store, "a.example")
    _add(store, _datagram("a.example"), _datagram("b.example"))
    assert _undecided(store) == [("a.example", 1, 1, 0)]
    _close(store)
    assert _undecided(store) == [("a.example", 1, 1, 0), ("a.example", 2, 1, 0), ("b.example", 1, 2, 0)]


def test_a_domain_day_is_decided_once(store: engine.Store) -> None:
    """The second of two processes learns that it came too late."""
    _add(store, _datagram())
    _close(store)
    with store.write() as connection:
        (one,) = reports.undecided(connection, 9)
        assert reports.settle(connection, [(one, schema.UNDECIDED, "has to wait")]) == {one}
        assert reports.settle(connection, [(one, schema.REPORTED, None)]) == {one}
        assert not reports.settle(connection, [(one, schema.SKIPPED, "too late")])
    assert _undecided(store) == []


def _deliver_to(store: engine.Store, *rua: str, report_id: str = "1@s.example") -> None:
    record = tlsrpt.parse_record(f"v=TLSRPTv1; rua={','.join(rua)}")
    with store.write() as connection:
        made = reports.Report(report_id, DAY, "a.example", NOON, 1, 0, b"packed")
        reports.add(connection, [made])
        due = [(one, NOON) for one in record.rua]
        deliveries.add(connection, [deliveries.Addressed(report_id, DAY, "a.example", due)])


def test_each_rua_is_a_delivery_of_its_own_and_claimed_once(store: engine.Store) -> None:
    """What somebody is at is not given to another, until the lease has expired."""
    _deliver_to(store, "mailto:r@a.example", "https://a.example/")
    with store.write() as connection:
        assert deliveries.claim(connection, NOON - dt.timedelta(seconds=1), 9) == []
        assert [one.rua for one in deliveries.claim(connection, NOON, 1)] == ["mailto:r@a.example"]
        assert [one.rua for one in deliveries.claim(connection, NOON, 9)] == ["https://a.example/"]
        assert deliveries.claim(connection, NOON, 9) == []
        assert len(deliveries.claim(connection, NOON + deliveries.LEASE, 9)) == 2


def test_retry_and_cancel_change_only_what_they_should(store: engine.Store) -> None:
    """A delivered one stays delivered; a cancelled one is not tried again by an attempt that was under way."""
    _deliver_to(store, "mailto:r@a.example", "https://a.example/")
    with store.write() as connection:
        first, second = deliveries.claim(connection, NOON, 9)
        deliveries.note(connection, first, NOON, outcome.Settled(outcome.State.DELIVERED, "250 ok"))
        assert deliveries.cancel(connection, "1@s.example", NOON) == 1
        deliveries.note(connection, second, NOON, outcome.Again(NOON, "503 later"))
        assert [one.state for one in deliveries.of_report(connection, "1@s.example")] == ["delivered", "cancelled"]
        assert deliveries.retry(connection, "1@s.example", NOON) == 1
        assert [one.rua for one in deliveries.claim(connection, NOON, 9)] == ["https://a.example/"]
        assert [one.rua for one in listings.settled_deliveries(connection)] == ["mailto:r@a.example"]


def test_retry_leaves_an_attempt_under_way_alone(store: engine.Store) -> None:
    """Nobody else may send meanwhile, and what it delivered stays delivered, whatever is noted later."""
    _deliver_to(store, "mailto:r@a.example")
    with store.write() as connection:
        (one,) = deliveries.claim(connection, NOON, 9)
        assert deliveries.retry(connection, "1@s.example", NOON) == 1
        assert deliveries.claim(connection, NOON, 9) == []
        deliveries.note(connection, one, NOON, outcome.Settled(outcome.State.DELIVERED, "250 ok"))
        deliveries.note(connection, one, NOON, outcome.Settled(outcome.State.REFUSED, "550 no"))
        assert [one.state for one in deliveries.of_report(connection, "1@s.example")] == ["delivered"]


def test_retry_begins_anew_whatever_an_attempt_under_way_comes_to(store: engine.Store) -> None:
    """It may not be given up because of the window that the postmaster has just renewed."""
    _deliver_to(store, "mailto:r@a.example")
    with store.write() as connection:
        for _ in range(3):
            (one,) = deliveries.claim(connection, NOON, 9)
            deliveries.note(connection, one, NOON, outcome.Again(NOON, "450 later"))
        (one,) = deliveries.claim(connection, NOON, 9)
        deliveries.retry(connection, "1@s.example", NOON)
        deliveries.note(connection, one, NOON, outcome.Settled(outcome.State.EXPIRED, "given up"))
        (again,) = deliveries.claim(connection, NOON, 9)
        assert (again.state, again.attempts, again.first_attempt) == ("due", 0, None)


def test_report_mails_are_counted_by_the_domain_they_went_to(store: engine.Store) -> None:
    """Only those that the relay took, in the time asked for: the loop guard stands on this."""
    _deliver_to(store, "mailto:r@b.example", "mailto:s@b.example", "https://b.example/")
    with store.write() as connection:
        first, _, third = sorted(deliveries.claim(connection, NOON, 9), key=lambda one: one.number)
        for one in (first, third):
            deliveries.note(connection, one, NOON, outcome.Settled(outcome.State.DELIVERED, "ok"))
        hour = dt.timedelta(hours=1)
        assert deliveries.mailed(connection, ["b.example", "a.example"], NOON, NOON + hour) == {"b.example": 1}
        assert deliveries.mailed(connection, ["b.example"], NOON - hour, NOON) == {}


def test_revisions_count_the_reports_about_a_day(store: engine.Store) -> None:
    """Numbers follow each other, whatever the closings were."""
    for number in ("1@s.example", "2@s.example"):
        _deliver_to(store, "mailto:r@a.example", report_id=number)
    with store.read() as connection:
        assert [one.revision for one in reports.of_domain(connection, "a.example", DAY)] == [1, 2]
        assert reports.of_domain(connection, "a.example", DAY)[1].created == NOON


def test_a_host_is_told_once_whatever_the_closings(store: engine.Store) -> None:
    """Each share of a host's day is told once, after its domain-day was decided."""
    _add(store, *(_datagram(name, kind=1, mx="mx.p.example") for name in ("a.example", "b.example")))
    _close(store, "a.example")
    with store.write() as connection:
        assert hosts.untold(connection, 9) == []
        (one,) = reports.undecided(connection, 9)
        reports.settle(connection, [(one, schema.SKIPPED, "no record")])
        (host_day,) = hosts.untold(connection, 9)
        assert host_day == hosts.HostDay(DAY, "mx.p.example")
        (share,) = hosts.shares(connection, host_day)
        assert (share.domain_day, share.count.policy.type) == (("a.example", 1), PolicyType.TLSA)
        assert hosts.mark_told(connection, host_day, [share])
        assert not hosts.mark_told(connection, host_day, [share])
        assert hosts.untold(connection, 9) == []
    _close(store)
    with store.write() as connection:
        (other,) = reports.undecided(connection, 9)
        reports.settle(connection, [(other, schema.SKIPPED, "no record")])
        assert [share.domain_day for share in hosts.shares(connection, host_day)] == [("b.example", 1)]


def test_old_days_are_deleted_but_not_what_is_still_to_be_delivered(store: engine.Store) -> None:
    """Retention takes counts, reports and deliveries of old days; a due delivery keeps its report."""
    _add(store, _datagram(), b"nonsense")
    _add(store, _datagram(), day=DAY + dt.timedelta(days=1))
    _deliver_to(store, "mailto:r@a.example", report_id="1@s.example")
    _deliver_to(store, "mailto:r@a.example", report_id="2@s.example")
    with store.write() as connection:
        deliveries.cancel(connection, "1@s.example", NOON)
        retention.delete_before(connection, DAY + dt.timedelta(days=1))
    with store.read() as connection:
        assert [row.day for row in listings.pending_days(connection)] == [DAY + dt.timedelta(days=1)]
        assert listings.malformed(connection) == []
        assert set(reports.by_id(connection, ["1@s.example", "2@s.example"])) == {"2@s.example"}
        tables = (schema.policies, schema.deliveries)
        assert [connection.execute(sa.select(sa.func.count()).select_from(t)).scalar() for t in tables] == [1, 1]
