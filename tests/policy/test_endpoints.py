"""The sockets of ``policy.listen``: read, bound with the right rights, and those of systemd taken instead."""

import grp
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from policy import endpoints, listeners

# id, item of policy.listen, what it is; None: nothing
ADDRESSES: Sequence[tuple[str, str, object]] = [
    ("absolute path", "unix:/run/tlsrpt/policy.sock", endpoints.UnixAddress(Path("/run/tlsrpt/policy.sock"))),
    ("relative path", "unix:run/policy.sock", endpoints.UnixAddress(Path("run/policy.sock"))),
    ("colon in a path", "unix:/a:b", endpoints.UnixAddress(Path("/a:b"))),
    ("IPv4", "inet:127.0.0.1:8461", endpoints.InetAddress("127.0.0.1", 8461)),
    ("IPv6", "inet:[::1]:8461", endpoints.InetAddress("::1", 8461)),
    ("name", "inet:localhost:8461", endpoints.InetAddress("localhost", 8461)),
    ("no path", "unix:", None),
    ("root", "unix:/", None),
    ("no kind", "/run/policy.sock", None),
    ("unknown kind", "tcp:127.0.0.1:8461", None),
    ("no port", "inet:127.0.0.1", None),
    ("no host", "inet::8461", None),
    ("port 0", "inet:127.0.0.1:0", None),
    ("port too high", "inet:127.0.0.1:65536", None),
    ("IPv6 without brackets", "inet:::1:8461", None),
    ("port that is a word", "inet:127.0.0.1:smtp", None),
    ("empty", "", None),
]


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*case[1:], id=case[0]) for case in ADDRESSES])
def test_addresses_are_read_or_refused_with_a_cure(text: str, expected: object) -> None:
    """A typo is one line that names the key, the value and what to write."""
    if expected is not None:
        assert endpoints.parse(text) == expected
        return
    with pytest.raises(ValueError, match=r"policy\.listen: .* give") as error:
        endpoints.parse(text)
    assert f'"{text}"' in str(error.value)


def test_no_address_is_refused() -> None:
    """A server that listens nowhere is a mistake."""
    with pytest.raises(ValueError, match=r"policy\.listen is empty: give"):
        endpoints.listen([])


def test_a_socket_file_has_the_right_rights(tmp_path: Path) -> None:
    """Postfix asks as a user of its own, so anybody may connect unless told otherwise."""
    group = grp.getgrgid(os.getegid()).gr_name
    endpoints.listen([f"unix:{tmp_path / 'a'}"]).close()
    listening = endpoints.listen([f"unix:{tmp_path / 'b'}", f"unix:{tmp_path / 'c'}"], mode=0o660, group=group)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("b", "c")] == [0o660, 0o660]
    assert listening.own_paths == (tmp_path / "b", tmp_path / "c")
    listening.close()
    assert not list(tmp_path.iterdir())
    listening = endpoints.listen([f"unix:{tmp_path / 'a'}"])
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666
    listening.close()


def test_an_address_in_use_is_told_and_the_others_are_given_back(tmp_path: Path) -> None:
    """One line, and nothing is left behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(listeners.ListenError, match=rf"inet:127\.0\.0\.1:{port}: cannot be bound: .* in use: stop"):
            endpoints.listen([f"unix:{tmp_path / 's'}", f"inet:127.0.0.1:{port}"])
    assert not (tmp_path / "s").exists()


def _port() -> int:
    """Return a port of TCP that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tcp() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_tcp_addresses_are_bound() -> None:
    """IPv6 beside IPv4 on the same port, and again right after connections were closed."""
    port = _port()
    for _ in range(2):
        listening = endpoints.listen([f"inet:127.0.0.1:{port}", f"inet:[::1]:{port}"])
        assert [sock.getsockname()[:2] for sock in listening.sockets] == [("127.0.0.1", port), ("::1", port)]
        for sock in listening.sockets:
            with socket.create_connection(sock.getsockname()[:2]):
                sock.accept()[0].close()
        listening.close()


def test_sockets_of_systemd_replace_our_own(tmp_path: Path) -> None:
    """Whatever the path of a Unix socket, and by port; the rest is bound, and systemd's file stays at the end."""
    unix = listeners.bind_unix(tmp_path / "systemd", socket.SOCK_STREAM, 0o666)
    with _tcp() as tcp, _tcp() as other, listeners.bind_unix(tmp_path / "r", socket.SOCK_DGRAM, 0o666) as recorder:
        free = _port()
        addresses = [f"unix:{tmp_path / 'own'}", f"inet:127.0.0.1:{tcp.getsockname()[1]}", f"inet:127.0.0.1:{free}"]
        listening = endpoints.listen(addresses, [recorder, unix, tcp, other])
        assert listening.sockets[:2] == (unix, tcp)
        assert [sock.getsockname()[1] for sock in listening.sockets[2:]] == [free]
        assert listening.own_paths == ()
        listening.close()
        assert [sock.fileno() >= 0 for sock in (recorder, other, unix, tcp)] == [True, True, False, False]
    assert (tmp_path / "systemd").is_socket()
    assert not (tmp_path / "own").exists()
