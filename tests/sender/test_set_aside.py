"""Malformed datagrams in a file for a person: readable, bounded, and never in the way."""

import json
from pathlib import Path

from sender import set_aside


def test_set_aside_is_readable(tmp_path: Path) -> None:
    """A person sees which bytes could not be used, and why."""
    aside = set_aside.SetAside(tmp_path / set_aside.NAME)
    assert aside.add("2026-11-24.00000000000.ndjson", "not-utf8", b'{"d":"\xff\x00b\xc3\xbc"}')
    assert aside.add("x", "truncated", b"y" * 300_000)
    lines = (tmp_path / set_aside.NAME).read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "segment": "2026-11-24.00000000000.ndjson",
        "reason": "not-utf8",
        "datagram": '{"d":"\\xff\x00b\u00fc"}',
    }
    assert len(json.loads(lines[1])["datagram"]) == set_aside.MAX_SHOWN


def test_set_aside_is_bounded(tmp_path: Path) -> None:
    """However much comes, two files of the greatest size are kept, and the newest line is among them."""
    path = tmp_path / set_aside.NAME
    aside = set_aside.SetAside(path, max_bytes=500)
    for number in range(100):
        assert aside.add("segment", "not-json", b"%d" % number)
        assert path.stat().st_size <= 500
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / f"{set_aside.NAME}.1"]
    assert json.loads(path.read_text().splitlines()[-1])["datagram"] == "99"
    assert (tmp_path / f"{set_aside.NAME}.1").stat().st_size <= 500


def test_set_aside_on_a_full_disk(tmp_path: Path) -> None:
    """It is an aid only: that it cannot be written is told, not raised."""
    (tmp_path / "full").symlink_to("/dev/full")
    assert not set_aside.SetAside(tmp_path / "full").add("segment", "empty", b"")
    assert not set_aside.SetAside(tmp_path / "missing" / "file").add("segment", "empty", b"")
