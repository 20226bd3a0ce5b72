"""What a run of the daily job did, counted while it runs: for the log of the reporter and for ``tlsrpt report``."""

import collections
import dataclasses
import datetime as dt

from sender import building, decision, delivering, outcome

DEFERRED = "deferred"
"""What a delivery that is tried again is counted as, beside the states it can be settled in."""


def ending(attempt: delivering.Attempt) -> str:
    """Return how an attempt ended: a state of ``outcome.State``, or :data:`DEFERRED`."""
    return attempt.step.state.value if isinstance(attempt.step, outcome.Settled) else DEFERRED


@dataclasses.dataclass(slots=True)
class Summary:
    """Counts of one run."""

    closed: list[dt.date] = dataclasses.field(default_factory=list)
    reports: int = 0
    skipped: int = 0
    waiting: int = 0
    deliveries: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """By state (``outcome.State``), and :data:`DEFERRED`."""

    def built(self, built: building.Decided | building.Told) -> str:
        """Count a decision, and return as what: ``built``, ``waiting`` or ``skipped``."""
        if isinstance(built, building.Told) or isinstance(built.decision, decision.Send):
            self.reports += 1
            return "built"
        if isinstance(built.decision, decision.Wait):
            self.waiting += 1
            return "waiting"
        self.skipped += 1
        return "skipped"

    def attempted(self, attempt: delivering.Attempt) -> str:
        """Count an attempt to deliver, and return as what."""
        state = ending(attempt)
        self.deliveries[state] += 1
        return state

    @property
    def decided(self) -> int:
        """How many decisions were counted."""
        return self.reports + self.skipped + self.waiting

    @property
    def undelivered(self) -> int:
        """How many attempts did not end with the report being taken."""
        return self.deliveries.total() - self.deliveries[outcome.State.DELIVERED.value]
