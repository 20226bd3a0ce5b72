"""``sender.outcome``: what answers mean, and when a delivery is tried again or given up."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender import outcome

NOW = dt.datetime(2026, 11, 25, 1, 0, tzinfo=dt.UTC)
DAY = 86400.0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (250, outcome.Delivered("250 x")),
        (251, outcome.Delivered("251 x")),
        (354, outcome.Deferred("354 x")),
        (421, outcome.Deferred("421 x")),
        (450, outcome.Deferred("450 x")),
        (550, outcome.Refused("550 x")),
        (554, outcome.Refused("554 x")),
        (-1, outcome.Deferred("-1 x")),
        (999, outcome.Deferred("999 x")),
    ],
)
def test_smtp_reply_codes(code: int, expected: outcome.Outcome) -> None:
    """2xx is a delivery, 5xx a refusal, all else is tried again."""
    assert outcome.of_smtp(code, "x") == expected


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (200, "OK", outcome.Delivered("200 OK")),
        (201, "", outcome.Delivered("201")),
        (204, "No Content", outcome.Delivered("204 No Content")),
        (100, "Continue", outcome.Deferred("100 Continue")),
        (301, "Moved", outcome.Deferred("301 Moved (redirects are not followed)")),
        (308, "", outcome.Deferred("308 (redirects are not followed)")),
        (400, "Bad Request", outcome.Refused("400 Bad Request")),
        (404, "Not Found", outcome.Refused("404 Not Found")),
        (410, "Gone", outcome.Refused("410 Gone")),
        (413, "Too Large", outcome.Refused("413 Too Large")),
        (408, "Timeout", outcome.Deferred("408 Timeout")),
        (425, "Too Early", outcome.Deferred("425 Too Early")),
        (429, "Slow Down", outcome.Deferred("429 Slow Down")),
        (500, "Error", outcome.Deferred("500 Error")),
        (503, "Unavailable", outcome.Deferred("503 Unavailable")),
        (999, "?", outcome.Deferred("999 ?")),
    ],
)
def test_http_statuses(status: int, reason: str, expected: outcome.Outcome) -> None:
    """Only 2xx is a delivery; a 4xx that does not say "later" is a refusal."""
    assert outcome.of_http(status, reason, None, NOW) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 0 ", 0.0, id="zero"),
        pytest.param("9" * 1000, outcome.MAX_RETRY_AFTER, id="many-digits"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("²", None, id="no-ascii-digit"),
        pytest.param("Wed, 25 Nov 2026 01:10:00 GMT", 600.0, id="date"),
        pytest.param("Wed, 25 Nov 2026 01:10:00", 600.0, id="date-without-zone"),
        pytest.param("Wed, 25 Nov 2026 01:10:00 -0000", 600.0, id="date-of-unknown-zone"),
        pytest.param("Tue, 24 Nov 2026 01:10:00 GMT", 0.0, id="past"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", outcome.MAX_RETRY_AFTER, id="far-future"),
        pytest.param("Fri, 31 Dec 99999 23:59:59 GMT", None, id="year-beyond"),
        pytest.param("Fri, 31 Dec 2026 23:59:59 +99999999999", None, id="zone-beyond"),
        pytest.param("soon", None, id="nonsense"),
    ],
)
def test_retry_after(field: str | None, expected: float | None) -> None:
    """Seconds and dates are understood and bounded, nonsense is ignored."""
    assert outcome.of_http(503, "x", field, NOW) == outcome.Deferred("503 x", expected)


@given(st.text())
def test_retry_after_never_fails(field: str) -> None:
    """Whatever a receiver writes there is survived and bounded."""
    answer = outcome.of_http(503, "x", field, NOW)
    assert isinstance(answer, outcome.Deferred)
    assert answer.retry_after is None or 0 <= answer.retry_after <= outcome.MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first\r\nsecond", "first second"),
        ("\x1b[31mred\x00\x7f\x9b", "[31mred"),
        ("  many   spaces\t", "many spaces"),
        ("right\u202eleft \udcff", "right left"),
        ("Grüße", "Grüße"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
    ],
)
def test_answers_are_fit_for_display(text: str, expected: str) -> None:
    """Answers of strangers reach terminals and pages: one line, printable, bounded."""
    assert outcome.clean(text) == expected


@pytest.mark.parametrize(
    ("attempts", "chance", "minutes"),
    [
        (1, 0.5, 5),
        (1, 0.0, 4),
        (1, 0.999999999, 6),
        (2, 0.5, 10),
        (3, 0.5, 20),
        (6, 0.5, 160),
        (7, 0.5, 240),
        (8, 0.5, 240),
        (10_000, 0.5, 240),
        (8, 0.999999999, 288),
    ],
)
def test_pauses_double_up_to_four_hours(attempts: int, chance: float, minutes: float) -> None:
    """5, 10, 20 minutes and so on, a fifth longer or shorter by chance."""
    step = outcome.next_step(outcome.Deferred("450 x"), attempts, NOW, NOW, retry_for=DAY, chance=chance)
    assert isinstance(step, outcome.Again)
    assert (step.at - NOW).total_seconds() == pytest.approx(minutes * 60, abs=0.001)
    assert step.answer == "450 x"


def test_receiver_is_not_asked_earlier_than_it_wants() -> None:
    """``Retry-After`` lengthens a pause and never shortens it."""
    longer = outcome.next_step(outcome.Deferred("503", 3600.0), 1, NOW, NOW, retry_for=DAY, chance=0.5)
    shorter = outcome.next_step(outcome.Deferred("503", 1.0), 1, NOW, NOW, retry_for=DAY, chance=0.5)
    assert longer == outcome.Again(NOW + dt.timedelta(hours=1), "503")
    assert shorter == outcome.Again(NOW + dt.timedelta(minutes=5), "503")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (outcome.Delivered("250 ok"), outcome.Settled(outcome.State.DELIVERED, "250 ok")),
        (outcome.Refused("550 no"), outcome.Settled(outcome.State.REFUSED, "550 no")),
    ],
)
def test_final_answers_settle_a_delivery(result: outcome.Outcome, expected: outcome.Settled) -> None:
    """After a delivery or a refusal nothing is tried again."""
    assert outcome.next_step(result, 1, NOW, NOW, retry_for=DAY, chance=0.5) == expected


@pytest.mark.parametrize(
    ("attempts", "hours", "retry_for", "text"),
    [
        pytest.param(9, 22, DAY, "given up after 9 attempts in 22 hours: 450 x", id="day-is-over"),
        pytest.param(1, 0, 0.0, "given up after 1 attempt in 0 hours: 450 x", id="no-retry-at-all"),
        pytest.param(3, 1, 3600.0, "given up after 3 attempts in 1 hour: 450 x", id="one-hour"),
    ],
)
def test_delivery_is_given_up_when_its_time_is_over(attempts: int, hours: int, retry_for: float, text: str) -> None:
    """The next attempt would come too late: the last answer is told."""
    first = NOW - dt.timedelta(hours=hours)
    step = outcome.next_step(outcome.Deferred("450 x"), attempts, first, NOW, retry_for=retry_for, chance=0.5)
    assert step == outcome.Settled(outcome.State.EXPIRED, text)


def test_attempt_at_the_very_end_still_counts() -> None:
    """Exactly ``retry_for`` after the first attempt is in time; a second later is not."""
    deferred = outcome.Deferred("503", DAY)
    assert outcome.next_step(deferred, 1, NOW, NOW, retry_for=DAY, chance=0.5) == outcome.Again(
        NOW + dt.timedelta(days=1), "503"
    )
    late = outcome.next_step(deferred, 1, NOW, NOW, retry_for=DAY - 1, chance=0.5)
    assert isinstance(late, outcome.Settled)


@given(st.floats(0, 1, exclude_max=True))
def test_a_day_of_deferrals_takes_a_bounded_number_of_attempts(chance: float) -> None:
    """RFC 8460 section 5.5: for 24 hours, but not for ever and not every minute."""
    now, attempts = NOW, 1
    while isinstance(
        step := outcome.next_step(outcome.Deferred("450"), attempts, NOW, now, retry_for=DAY, chance=chance),
        outcome.Again,
    ):
        assert step.at > now
        now, attempts = step.at, attempts + 1
    assert step.state is outcome.State.EXPIRED
    assert 9 <= attempts <= 16
    assert now - NOW > dt.timedelta(hours=18)
