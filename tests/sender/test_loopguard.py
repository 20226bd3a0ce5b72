"""The loop guard: our own report mails lead to no report."""

import datetime as dt

import pytest

from sender import loopguard

GUARDED = [
    ("nothing was mailed", 1, 0, 0, False),
    ("one mail, its session", 1, 0, 1, True),
    ("one mail, a broken first MX and a good second", 1, 1, 1, True),
    ("one mail that failed", 0, 1, 1, True),
    ("one mail beside another's", 2, 0, 1, False),
    ("one mail beside failures of others", 1, 2, 1, False),
    ("two mails, one session", 1, 0, 2, True),
]


@pytest.mark.parametrize(
    ("successful", "failed", "mailed", "own"), [r[1:] for r in GUARDED], ids=[r[0] for r in GUARDED]
)
def test_only_days_that_can_be_all_our_own_are_guarded(*, successful: int, failed: int, mailed: int, own: bool) -> None:
    """A single session too many is somebody else's, and reported."""
    assert loopguard.all_our_own(successful, failed, mailed) is own


def test_a_mail_sent_shortly_before_midnight_can_make_its_session_after_it() -> None:
    """The window begins before its day and ends with it."""
    since, until = loopguard.window(dt.date(2026, 11, 24))
    assert since == dt.datetime(2026, 11, 23, 23, tzinfo=dt.UTC)
    assert until == dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
