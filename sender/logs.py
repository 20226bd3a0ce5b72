"""How the log is written: logfmt on standard error, or JSON for machines; one line for each event, a traceback too.

What libraries log and warn about goes the same way. A log that cannot be written (its disk is full, its reader is
gone) stops nothing: sessions are still recorded, reports still sent.
"""

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog

from sender import printable

_ORDER = ["timestamp", "level", "event"]


class _Stream:
    """Standard error, but never an error of its own."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(*, json: bool) -> None:
    """Set structlog and logging up for this process and those it forks."""
    begin: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    end: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    end += (
        [structlog.processors.JSONRenderer()]
        if json
        else [structlog.processors.LogfmtRenderer(key_order=_ORDER), _escape]
    )
    stream = cast("TextIO", _Stream())
    structlog.configure(
        processors=[*begin, *end], logger_factory=structlog.WriteLoggerFactory(stream), cache_logger_on_first_use=True
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*begin, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _escape(_logger: Any, _method: str, line: Any) -> str:
    """Escape control characters that a stranger's text may have: they would change what a terminal shows."""
    return printable.escaped(line)
