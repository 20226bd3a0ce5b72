"""``tlsrpt serve recorder`` with an Exim: from an event on its socket to the journal."""

import json
import pathlib
import socket
import stat
from collections.abc import Callable
from typing import Any

import pytest

from sender import config, roles

EVENT = (
    'event_name="smtp:ehlo" event_data="250 mx.example.net" pid=%d domain=n%d.example host=mx.example.net '
    "host_address=192.0.2.25 host_port=25 tls_out_ver=TLS1.3\n"
)


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration file."""
    path = tmp_path / "tlsrpt.toml"
    path.write_text(
        f'[recorder]\nsocket = "{tmp_path}/r"\njournal = "{tmp_path}/journal"\nexim_socket = "{tmp_path}/exim/e"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/db"\n[policy]\nlisten = ["unix:{tmp_path}/p"]\n'
    )
    return path


def send(path: pathlib.Path, text: str) -> bytes:
    """Send an event as Exim does; return the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(text.encode())
        client.shutdown(socket.SHUT_WR)
        return client.recv(100)


def test_events_get_into_the_journal(tmp_path: pathlib.Path, file: pathlib.Path, serve: Callable[..., Any]) -> None:
    """The role has three processes; what Exim tells is appended like what Postfix tells, and the socket goes away."""
    served = serve("recorder", "--config", str(file))
    served.wait_for("listening to Exim")
    served.wait_for("recorder started")
    path = tmp_path / "exim" / "e"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    count = 20
    assert [send(path, EVENT % (number, number)) for number in range(count)] == [b""] * count
    served.wait_for("the policy socket does not answer: sessions are told without their policy")
    assert served.end() == 0
    assert not path.exists()
    (stopped,) = served.events("stopped listening to Exim")
    assert (stopped["events"], stopped["sent"] + stopped["lost"]) == (count, count)
    lines = [line for segment in (tmp_path / "journal").glob("*.ndjson") for line in segment.read_text().splitlines()]
    assert [json.loads(line)["d"] for line in lines] == [f"n{number}.example" for number in range(len(lines))]
    assert lines


def test_there_is_no_process_without_a_socket(file: pathlib.Path) -> None:
    """The default is no Exim, and nothing more runs."""
    assert set(roles.processes(config.Config(), ["recorder"], [])) == {"recorder", "tally"}
    assert set(roles.processes(config.load(file, {}), ["recorder"], [])) == {"recorder", "tally", "exim"}
    assert set(roles.processes(config.load(file, {}), ["policy"], [])) == {"policy"}


def test_a_socket_that_cannot_be_had_is_told(
    tmp_path: pathlib.Path, file: pathlib.Path, serve: Callable[..., Any]
) -> None:
    """Something else is at the path: the process says so, and the recorder works."""
    (tmp_path / "exim").mkdir()
    (tmp_path / "exim" / "e").write_text("")
    served = serve("recorder", "--config", str(file))
    (failed,) = served.wait_for("Exim cannot be listened to")
    assert str(tmp_path / "exim" / "e") in failed["error"]
    served.wait_for("recorder started")
