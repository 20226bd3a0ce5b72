"""Datagrams that could not be read, set aside in a file that a person can look at.

A rim: one file in the journal's directory, and the one before it. An aid only: the tally counts them by reason in
the store, whether or not the file could be written.
"""

from pathlib import Path

import msgspec

NAME = "malformed.ndjson"
"""Name of the set-aside file within the journal."""

MAX_BYTES = 1024 * 1024
"""Bytes of the set-aside file before it is rotated, once: it is there to be looked at, not to be complete."""

MAX_SHOWN = 4096
"""Bytes of a datagram in the set-aside file: enough to see what is wrong."""


class _Aside(msgspec.Struct, frozen=True):
    segment: str
    reason: str
    datagram: str


class SetAside:
    """A file of datagrams that could not be used, for a person to look at; at most two files of ``max_bytes``.

    Args:
        path: of the file; the one before it has ``.1`` added.
        max_bytes: of one file.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def add(self, segment_name: str, reason: str, content: bytes) -> bool:
        r"""Append one datagram, its beginning at least; bytes that are no UTF-8 are shown as ``\xff``.

        Returns:
            whether it was written. It is an aid only, so a full disk is no error.
        """
        text = content[:MAX_SHOWN].decode(errors="backslashreplace")
        line = msgspec.json.encode(_Aside(segment_name, reason, text)) + b"\n"
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._path.replace(f"{self._path}.1")
            with self._path.open("ab", buffering=0) as file:
                return file.write(line) == len(line)
        except OSError:
            return False
