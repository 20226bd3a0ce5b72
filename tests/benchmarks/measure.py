"""What a benchmark is, and how it is measured: against a yardstick in the same run, so that noise cancels.

A round measures the yardstick and tlsrpt one behind the other and gives their ratio; the median of the rounds' ratios
is what is held against the target. Absolute figures are printed, too, but say nothing about another machine.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

ROUNDS = 5
"""Of a whole benchmark."""

SHORT_ROUNDS = 3
"""Of the short version."""


class CannotError(Exception):
    """It cannot be measured here; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one round measured, both in the same unit."""

    figure: float
    yardstick: float

    @property
    def ratio(self) -> float:
        """Figure by yardstick."""
        return self.figure / self.yardstick


Round = Callable[[], Sample]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where and how much."""

    scratch: pathlib.Path
    """A folder of its own, empty."""
    short: bool
    """Fewer rounds, smaller amounts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Benchmark:
    """One line of the table."""

    id: str
    what: str
    """What is done."""
    unit: str
    yardstick: str
    """What it is held against."""
    target: float
    """Of the ratio: at least, or with :attr:`at_most` at most."""
    prepare: Callable[[Place], AbstractContextManager[Round]]
    """Sets up, yields what measures one round, and cleans up."""
    guard: float | None = None
    """Where the short version fails: half of what is reached (twice, with :attr:`at_most`), or further off; ``None``:
    it is left out of the short version."""
    at_most: bool = False
    rounds: int = ROUNDS
    known: str = ""
    """Why the target is not reached; docs/performance.md has the measurement."""

    def reaches(self, ratio: float, bound: float) -> bool:
        """Tell whether a ratio is good enough."""
        return ratio <= bound if self.at_most else ratio >= bound


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a benchmark."""

    benchmark: Benchmark
    samples: Sequence[Sample]
    short: bool
    cannot: str = ""

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(sample.ratio for sample in self.samples)

    @property
    def figure(self) -> float:
        """Median."""
        return statistics.median(sample.figure for sample in self.samples)

    @property
    def yardstick(self) -> float:
        """Median."""
        return statistics.median(sample.yardstick for sample in self.samples)

    @property
    def span(self) -> tuple[float, float]:
        """Least and greatest ratio of a round."""
        ratios = [sample.ratio for sample in self.samples]
        return min(ratios), max(ratios)

    @property
    def bound(self) -> float:
        """What the ratio is held against: in the short version the guard."""
        guard = self.benchmark.guard
        return guard if self.short and guard is not None else self.benchmark.target

    @property
    def good(self) -> bool:
        """Whether it was measured and is good enough."""
        return not self.cannot and self.benchmark.reaches(self.ratio, self.bound)


def measure(benchmark: Benchmark, place: Place) -> Result:
    """Measure one benchmark, round by round."""
    samples: list[Sample] = []
    rounds = min(SHORT_ROUNDS, benchmark.rounds) if place.short else benchmark.rounds
    try:
        with benchmark.prepare(place) as one_round:
            samples.extend(one_round() for _ in range(rounds))
    except CannotError as error:
        return Result(benchmark, samples, place.short, str(error))
    return Result(benchmark, samples, place.short)
