"""What the policy socket counts, for monitoring: plain numbers that cost who asks next to nothing.

Pure.
"""

import collections
import dataclasses

MAX_WAITS = 10_000
"""Durations kept until somebody takes them; then the oldest go."""

UNKNOWN_MAP = "unknown-map"
"""Outcome of an answer: the name of the map is none of ours."""

FETCHED = "fetched"
"""Outcome of a fetch that brought a policy; others are RFC 8460's result types."""


@dataclasses.dataclass(slots=True)
class Statistics:
    """Counted since the start."""

    answers: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """By outcome: a level (``policy.verdict.Level``) or :data:`UNKNOWN_MAP`."""
    fetches: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Attempts to fetch a policy, by outcome."""
    waits: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=MAX_WAITS))
    """Seconds that those waited whose answer was not ready; whoever reports them takes them out."""
    ready: int = 0
    """Domains whose answers are ready, at the last look."""
    under_way: int = 0
    """Domains that are looked up, at the last look."""
    kept: int = 0
    """Policies in the cache, at the last look."""
