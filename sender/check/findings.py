"""What was looked at and what was found, as values.

Pure. The ids are a contract with scripts, so they change only with a note in the changelog.
"""

import dataclasses
import enum


class State(enum.StrEnum):
    """How it stands."""

    OK = "ok"
    HINT = "hint"
    """It works; something could be better."""
    WARNING = "warning"
    """Some of it does not work, or will not for long."""
    ERROR = "error"
    """It does not work."""
    UNKNOWN = "unknown"
    """It cannot be told from here; the text says why."""


BAD = frozenset({State.WARNING, State.ERROR})
"""What a monitoring should hear of."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    id: str
    state: State
    found: str
    """A sentence."""
    cure: str = ""
    """What to do, as a command or a line where there is one; empty: nothing."""


def ok(id_: str, found: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(id_, State.OK, found)


def hint(id_: str, found: str, cure: str) -> Finding:
    """Return that something could be better."""
    return Finding(id_, State.HINT, found, cure)


def warning(id_: str, found: str, cure: str) -> Finding:
    """Return that some of it does not work."""
    return Finding(id_, State.WARNING, found, cure)


def error(id_: str, found: str, cure: str) -> Finding:
    """Return that it does not work."""
    return Finding(id_, State.ERROR, found, cure)


def unknown(id_: str, found: str) -> Finding:
    """Return that it cannot be told."""
    return Finding(id_, State.UNKNOWN, found)
