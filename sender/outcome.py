"""What became of one attempt to deliver a report, and what follows from it (RFC 8460 sections 5.4 and 5.5).

Pure. Delivered, refused and deferred are three different things: a refusal is the receiver's last word, a
deferral is tried again with growing pauses until ``report.retry_for`` has passed. Time and chance are arguments.

Does not deliver (``sender.mail`` and ``sender.https`` do) and does not store.
"""

import dataclasses
import datetime as dt
import email.utils
import enum
import http

FIRST_DELAY = 300.0
"""Seconds to the second attempt: long enough for a greylisting receiver to let it pass."""

FACTOR = 2.0
"""How much longer each pause is (RFC 8460 section 5.5: exponential back-off)."""

MAX_DELAY = 14400.0
"""Seconds of the longest pause: some more attempts still fit into the 24 hours of RFC 8460 section 5.5."""

JITTER = 0.2
"""Share by which a pause is longer or shorter, so that deliveries deferred together do not return together."""

MAX_RETRY_AFTER = 604800.0
"""Seconds; a receiver that asks for more than a week is not believed."""

MAX_ANSWER = 500
"""Characters of an answer that are kept: enough for a multi-line SMTP reply, bearable in a table."""

_MAX_DOUBLINGS = 16
"""By then any pause has reached MAX_DELAY; more would only overflow."""

_RETRY_STATUSES = {
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.TOO_EARLY,
    http.HTTPStatus.TOO_MANY_REQUESTS,
}
"""The 4xx that say "not now" rather than "not this" (RFC 9110 section 15.5.9, RFC 8470, RFC 6585)."""


class State(enum.StrEnum):
    """Where a delivery stands."""

    DUE = "due"
    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"
    """Given up: deferred until ``report.retry_for`` had passed."""
    CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has taken the report."""

    answer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """The receiver will not take it, now or later."""

    answer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Deferred:
    """It may be taken later."""

    answer: str
    retry_after: float | None = None
    """Seconds the receiver asks to wait at least; ``None``: it did not say."""


Outcome = Delivered | Refused | Deferred


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """No further attempt: the state a delivery ends in."""

    state: State
    answer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """Another attempt at a time (aware, UTC)."""

    at: dt.datetime
    answer: str


def clean(text: str) -> str:
    """Return text of a stranger on one line of at most MAX_ANSWER characters, without anything unprintable."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_ANSWER])
    line = " ".join(printable.split())
    return line if len(line) <= MAX_ANSWER else f"{line[: MAX_ANSWER - 1]}…"


def of_smtp(code: int, text: str) -> Outcome:
    """Return what a reply to the end of a message, or a refusal before it, means (RFC 5321 section 4.2.1)."""
    answer = clean(f"{code} {text}")
    match code // 100:
        case 2:
            return Delivered(answer)
        case 5:
            return Refused(answer)
        case _:
            return Deferred(answer)


def of_http(status: int, reason: str, retry_after: str | None, now: dt.datetime) -> Outcome:
    """Return what the answer to a POST means: only 2xx is a delivery (RFC 8460 section 5.4).

    Args:
        status: the HTTP status code.
        reason: the reason phrase; may be empty.
        retry_after: the ``Retry-After`` field, if there is one (RFC 9110 section 10.2.3).
        now: aware.
    """
    answer = clean(f"{status} {reason}")
    match status // 100:
        case 2:
            return Delivered(answer)
        case 3:
            return Deferred(clean(f"{answer} (redirects are not followed)"))
        case 4 if status not in _RETRY_STATUSES:
            return Refused(answer)
        case _:
            return Deferred(answer, _seconds(retry_after, now))


def next_step(
    outcome: Outcome, attempts: int, first_attempt: dt.datetime, now: dt.datetime, retry_for: float, chance: float
) -> Settled | Again:
    """Decide what follows from an attempt (RFC 8460 section 5.5).

    A delivery is given up as soon as its next attempt would come too late; there is no extra one at the very end.

    Args:
        outcome: of the attempt just made.
        attempts: how many were made, this one included.
        first_attempt: when the first was made; aware.
        now: aware.
        retry_for: seconds after the first attempt during which it is tried again.
        chance: a random number, 0 <= chance < 1.
    """
    match outcome:
        case Delivered(answer):
            return Settled(State.DELIVERED, answer)
        case Refused(answer):
            return Settled(State.REFUSED, answer)
        case Deferred(answer, retry_after):
            at = now + dt.timedelta(seconds=max(_delay(attempts, chance), retry_after or 0.0))
            if at > first_attempt + dt.timedelta(seconds=retry_for):
                return Settled(State.EXPIRED, clean(f"{_given_up(attempts, now - first_attempt)}: {answer}"))
            return Again(at.astimezone(dt.UTC), answer)


def _delay(attempts: int, chance: float) -> float:
    delay = min(FIRST_DELAY * FACTOR ** min(max(attempts - 1, 0), _MAX_DOUBLINGS), MAX_DELAY)
    return delay * (1 - JITTER + 2 * JITTER * chance)


def _given_up(attempts: int, elapsed: dt.timedelta) -> str:
    hours = round(elapsed.total_seconds() / 3600)
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return f"given up after {times} in {hours} {'hour' if hours == 1 else 'hours'}"


def _seconds(retry_after: str | None, now: dt.datetime) -> float | None:
    """Read ``Retry-After``: seconds or a date; nonsense counts as not told."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or dt.UTC) - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
