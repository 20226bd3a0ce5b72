"""``tlsrpt check``: a healthy installation, and the same with one thing broken each, named with its cure."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from policy import tlsrpt
from sender import config, journal, report, signature
from sender.check import findings, machine, names, postfix, running, sockets
from sender.demo import internet, zone
from sender.store import deliveries, engine, recorders, reports
from tests import stored

OK, HINT, WARNING, ERROR, UNKNOWN = findings.State

ORGANIZATION = internet.ORGANIZATION

ELSEWHERE = ["clock", "room", "kernel-queue"]
"""What depends on the machine that the tests run on."""


@dataclasses.dataclass
class Site:
    """An installation in a made-up internet, whose parts a test breaks."""

    net: internet.Internet
    folder: pathlib.Path
    text: str
    """The configuration."""
    values: dict[str, str]
    """Of main.cf."""
    listening: contextlib.ExitStack

    def change(self, old: str, new: str) -> None:
        """Change the configuration."""
        assert old in self.text
        self.text = self.text.replace(old, new)

    def settings(self) -> config.Config:
        """Return the configuration."""
        return config.parse(self.text, {})

    def store(self) -> engine.Store:
        """Open the store."""
        return engine.open_store(self.settings().store.url)

    def key(self, text: str) -> None:
        """Publish something as our DKIM key."""
        name = f"{internet.DKIM_SELECTOR}._domainkey.{ORGANIZATION}"
        self.net.zone.remove(name)
        self.net.zone.put(name, zone.Txt(text))

    def signer(self) -> signature.Signer:
        """Return our key."""
        return signature.Signer.load(str(self.net.dkim_file), internet.DKIM_SELECTOR, ORGANIZATION)


@contextlib.contextmanager
def site(net: internet.Internet, folder: pathlib.Path) -> Iterator[Site]:
    """Make a healthy installation."""
    queue = folder / "spool"
    queue.mkdir()
    text = net.config_text()
    for path in (net.recorder_socket, net.policy_socket):
        text = text.replace(str(path), str(queue / path.name))
    values = {
        "mail_version": "3.10.4",
        "queue_directory": str(queue),
        "smtp_tlsrpt_enable": "yes",
        "smtp_tlsrpt_socket_name": net.recorder_socket.name,
        "smtp_tls_policy_maps": f"socketmap:unix:{net.policy_socket.name}:QUERYwithTLSRPT",
        "smtp_tls_security_level": "may",
        "smtp_dns_support_level": "dnssec",
        "smtp_host_lookup": "dns",
        "smtp_tls_CAfile": "/etc/ssl/certs/ca-certificates.crt",
        "smtp_tls_session_cache_database": "",
        "smtp_tls_loglevel": "1",
    }
    net.zone.put(f"_dmarc.{ORGANIZATION}", zone.Txt("v=DMARC1; p=reject"))
    net.zone.put(ORGANIZATION, zone.Txt("v=spf1 mx -all"))
    net.zone.put(f"_smtp._tls.{ORGANIZATION}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tls@{ORGANIZATION}"))
    with contextlib.ExitStack() as listening:
        for path, kind in ((net.recorder_socket, socket.SOCK_DGRAM), (net.policy_socket, socket.SOCK_STREAM)):
            sock = listening.enter_context(socket.socket(socket.AF_UNIX, kind))
            sock.bind(str(queue / path.name))
            if kind is socket.SOCK_STREAM:
                sock.listen()
        made = Site(net, folder, text, values, listening)
        made.store().close()
        yield made


def found_at(folder: pathlib.Path, break_: Callable[[Site], None]) -> dict[str, findings.Finding]:
    """Break an installation, and return what is found, by id."""

    async def within() -> list[findings.Finding]:
        async with internet.start(folder, ()) as net:
            with site(net, folder) as made:
                break_(made)
                return [
                    *postfix.judge(made.values, made.settings()),
                    *[one for one in await running.look(made.settings(), running.ROLES) if one.id != "postfix"],
                ]

    return {one.id: one for one in asyncio.run(within())}


def test_a_healthy_installation_is_fine(tmp_path: pathlib.Path) -> None:
    """Nothing to warn of but that the demo's resolver validates nothing."""
    found = found_at(tmp_path, lambda _: None)
    states = {id_: one.state for id_, one in found.items() if id_ not in ELSEWHERE}
    assert states.pop("dnssec") is WARNING
    assert states.pop("own-mta-sts") is HINT
    assert {id_ for id_, state in states.items() if state is not OK} == set()


def _unlink(name: str) -> Callable[[Site], None]:
    return lambda made: (made.folder / "spool" / name).unlink()


def _file(made: Site) -> None:
    path = made.folder / "spool" / "tlsrpt.sock"
    path.unlink()
    path.write_text("no socket")


def _set(**values: str) -> Callable[[Site], None]:
    return lambda made: made.values.update(values)


def _outside(made: Site) -> None:
    made.change(str(made.folder / "spool" / "tlsrpt.sock"), str(made.folder / "tlsrpt.sock"))


def _tomorrow(made: Site) -> None:
    (made.folder / "journal").mkdir()
    day = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    (made.folder / "journal" / f"{day}.00000000000.ndjson").touch()


def _much(made: Site) -> None:
    (made.folder / "journal").mkdir()
    path = made.folder / "journal" / f"{dt.datetime.now(dt.UTC).date()}.00000000000.ndjson"
    path.touch()
    os.truncate(path, 60_000_000)


def _no_recorder(made: Site) -> None:
    made.change("[recorder]\nsocket", '[recorder]\nhost = "x"\n#')


def _foreign_key(made: Site) -> None:
    made.key(f"v=DKIM1; s=email; p={made.signer().public}")


def _remove(name: str) -> Callable[[Site], None]:
    return lambda made: made.net.zone.remove(f"{name}{ORGANIZATION}")


def _relay(made: Site) -> None:
    made.change(made.net.relay, made.net.relay.replace("smtp://", "smtps://"))


def _no_server(made: Site) -> None:
    made.change(f"sqlite:///{made.folder / 'tlsrpt.db'}", "postgresql://u@127.0.0.1:1/d")


def _no_key(made: Site) -> None:
    made.change(f'dkim_key = "{made.net.dkim_file}"', 'dkim_key = ""')
    made.change(f'dkim_selector = "{internet.DKIM_SELECTOR}"', 'dkim_selector = ""')


def _spoil(made: Site) -> None:
    for file in made.folder.glob("tlsrpt.db*"):
        file.unlink()
    (made.folder / "tlsrpt.db").write_bytes(b"this is no database" * 100)


def _newer(made: Site) -> None:
    store = made.store()
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()


def _host(made: Site) -> None:
    noon = dt.datetime.combine(_yesterday(), dt.time(12), dt.UTC)
    store = made.store()
    store.change(lambda connection: recorders.note(connection, "journal", "mx3.example", noon))
    store.close()


def _yesterday() -> dt.date:
    return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)


def _unclosed(made: Site) -> None:
    store = made.store()
    stored.count(
        store, _yesterday() - dt.timedelta(days=2), [b'{"d":"a.example","policies":[{"policy-type":9,"f":0}]}']
    )
    store.close()


def _overdue(made: Site) -> None:
    (rua,) = tlsrpt.parse_record("v=TLSRPTv1;rua=mailto:r@a.example").rua
    due = dt.datetime.now(dt.UTC) - dt.timedelta(hours=3)

    def put(connection: engine.Connection) -> None:
        reports.add(
            connection, [reports.Report("1@s.example", _yesterday(), "a.example", due, 1, 0, report.pack(b"{}"))]
        )
        deliveries.add(connection, [deliveries.Addressed("1@s.example", _yesterday(), "a.example", [(rua, due)])])

    store = made.store()
    store.change(put)
    store.close()


def _zone(name: str, *texts: str) -> Callable[[Site], None]:
    return lambda made: made.net.zone.put(f"{name}{ORGANIZATION}", *map(zone.Txt, texts))


OLD = {"mail_version": "3.7.11"}
NONE = {"smtp_tls_policy_maps": "hash:/etc/postfix/tls_policy"}
CACHE = {"smtp_tls_session_cache_database": "btree:x"}
QUERY = {"smtp_tls_policy_maps": "socketmap:unix:policy.sock:QUERY"}

# id, what is broken, which finding, its state, what the cure has
BROKEN: list[tuple[str, Callable[[Site], None], str, findings.State, str]] = [
    ("no recorder socket", _unlink("tlsrpt.sock"), "recorder-socket", ERROR, "tlsrpt serve recorder"),
    ("a file instead", _file, "recorder-socket", ERROR, "rm "),
    ("nobody receives", lambda made: made.listening.close(), "recorder-socket", ERROR, "tlsrpt serve recorder"),
    ("no recorder", _no_recorder, "recorder-socket", ERROR, "serve"),
    ("no policy socket", _unlink("policy.sock"), "policy-socket", ERROR, "tlsrpt serve policy"),
    ("nobody answers", lambda made: made.listening.close(), "policy-socket", ERROR, "tlsrpt serve policy"),
    ("a journal of tomorrow", _tomorrow, "journal-days", WARNING, "keep the clock right"),
    ("Postfix reports nothing", _set(smtp_tlsrpt_enable="no"), "postfix-events", ERROR, "smtp_tlsrpt_enable = yes"),
    ("no socket named", _set(smtp_tlsrpt_socket_name=""), "postfix-events", ERROR, "socket_name = tlsrpt.sock"),
    ("another one named", _set(smtp_tlsrpt_socket_name="x"), "postfix-events", ERROR, "socket_name = tlsrpt.sock"),
    ("outside of the chroot", _outside, "chroot", WARNING, "recorder.socket"),
    ("sessions resumed", _set(**CACHE), "postfix-session-cache", WARNING, "cache_database = '"),
    ("policies not asked for", _set(**NONE), "postfix-policies", ERROR, "socketmap:unix:policy.sock:QUERYwithTLSRPT"),
    ("asked without TLSRPT", _set(**QUERY), "postfix-policies", ERROR, "QUERYwithTLSRPT"),
    ("asked with, before 3.10", _set(**OLD), "postfix-policies", ERROR, "policy.sock:QUERY'"),
    ("no log is read", _set(**OLD, **QUERY), "postfix-events", ERROR, "follower.log"),
    ("no TLS", _set(smtp_tls_security_level=""), "postfix-level", WARNING, "smtp_tls_security_level = may"),
    ("no DNSSEC", _set(smtp_dns_support_level="enabled"), "postfix-dane", WARNING, "smtp_dns_support_level = dnssec"),
    ("hosts from files", _set(smtp_host_lookup="native"), "postfix-dane", WARNING, "smtp_host_lookup = dns"),
    ("no authorities", _set(smtp_tls_CAfile=""), "postfix-anchors", ERROR, "smtp_tls_CAfile"),
    ("a dead resolver", lambda made: made.change(made.net.nameserver, "127.0.0.1:1"), "dns", ERROR, "dns.nameservers"),
    ("it does not validate", lambda _: None, "dnssec", WARNING, "options trust-ad"),
    ("no DKIM key", _remove("tlsrpt._domainkey."), "dkim", ERROR, "v=DKIM1"),
    ("another key", lambda made: made.key("v=DKIM1; p=AAAA"), "dkim", ERROR, "publish tlsrpt._domainkey"),
    ("a revoked key", lambda made: made.key("v=DKIM1; p="), "dkim", ERROR, "publish tlsrpt._domainkey"),
    ("a key for other mail", _foreign_key, "dkim", ERROR, "s=tlsrpt"),
    ("no SPF", _remove(""), "spf", HINT, "v=spf1"),
    ("two SPF records", _zone("", "v=spf1 mx -all", "v=spf1 -all"), "spf", WARNING, "leave one"),
    ("DMARC without a key", _no_key, "dmarc", WARNING, "mail.dkim_key"),
    ("no DMARC", _remove("_dmarc."), "dmarc", HINT, "v=DMARC1"),
    ("a broken TLSRPT record", _zone("_smtp._tls.", "v=TLSRPTv1; rua"), "own-tlsrpt", WARNING, "_smtp._tls."),
    ("no TLSRPT record", _remove("_smtp._tls."), "own-tlsrpt", HINT, "v=TLSRPTv1"),
    ("no MTA-STS policy", _zone("_mta-sts.", "v=STSv1; id=1;"), "own-mta-sts", WARNING, "policy host"),
    ("a dead relay", lambda made: made.change(made.net.relay, "smtp://127.0.0.1:1"), "relay", ERROR, "mail.relay"),
    ("no TLS at the relay", _relay, "relay", ERROR, "relay"),
    ("a store that is none", _spoil, "store", ERROR, "store.url"),
    ("a newer store", _newer, "store", ERROR, "upgrade"),
    ("no database server", _no_server, "store", ERROR, "start the database"),
    ("a tally that is behind", _much, "tally", WARNING, "tlsrpt serve recorder"),
    ("a host is missing", _host, "hosts", WARNING, "mx3.example"),
    ("a day is not closed", _unclosed, "closing", ERROR, "tlsrpt report"),
    ("a delivery is overdue", _overdue, "deliveries", WARNING, "tlsrpt serve reporter"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("break_", "id_", "state", "cure"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_what_is_broken_is_named_with_its_cure(
    tmp_path: pathlib.Path, break_: Callable[[Site], None], id_: str, state: findings.State, cure: str
) -> None:
    """One thing each."""
    found = found_at(tmp_path, break_)[id_]
    assert (found.state, cure in found.cure) == (state, True), found
    assert "\n" not in found.found + found.cure


@pytest.mark.parametrize(
    ("length", "state"), [("10\n", WARNING), ("99\n", WARNING), ("100\n", OK), ("512\n", OK), ("many", UNKNOWN)]
)
def test_a_short_queue_of_the_kernel_is_warned_of(tmp_path: pathlib.Path, length: str, state: findings.State) -> None:
    """Ten is the kernel's own."""
    (tmp_path / "max_dgram_qlen").write_text(length)
    found = machine.queue(tmp_path / "max_dgram_qlen")
    assert found.state is state
    assert ("sysctl" in found.cure) == (state is WARNING)


# id, mode, owner, group, wanted, whether postfix (uid 100, groups 100 and 200) may
RIGHTS = [
    ("anybody", 0o666, 1, 1, 2, True),
    ("its group", 0o660, 1, 200, 2, True),
    ("another group", 0o660, 1, 1, 2, False),
    ("itself", 0o600, 100, 1, 2, True),
    ("its own, but not for it", 0o066, 100, 100, 2, False),
    ("its group not, others yes", 0o606, 1, 200, 2, False),
    ("to enter", 0o711, 1, 1, 1, True),
    ("not to enter", 0o700, 1, 1, 1, False),
]


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "wanted", "may"), [row[1:] for row in RIGHTS], ids=[row[0] for row in RIGHTS]
)
def test_rights_are_those_of_the_first_class_that_fits(
    mode: int, uid: int, gid: int, wanted: int, *, may: bool
) -> None:
    """Owner, group, others: as the kernel decides."""
    user = sockets.User("postfix", 100, frozenset({100, 200}))
    assert sockets.may(user, sockets.Rights(mode, uid, gid), wanted) is may


def test_postfix_is_asked_through_postconf(tmp_path: pathlib.Path) -> None:
    """A program of that name on PATH; what it does not know is not there; one that hangs or fails is told."""
    program = tmp_path / "postconf"
    program.write_text("#!/bin/sh\necho mail_version = 3.10.4\necho 'smtp_tls_policy_maps = a,'\n")
    program.chmod(0o755)
    inherited = os.environ["PATH"]
    os.environ["PATH"] = f"{tmp_path}:{inherited}"
    try:
        assert postfix.ask() == {"mail_version": "3.10.4", "smtp_tls_policy_maps": "a,"}
        program.write_text("#!/bin/sh\necho 'postconf: fatal: open /etc/postfix/main.cf: denied' >&2\nexit 1\n")
        with pytest.raises(OSError, match="denied"):
            postfix.ask()
    finally:
        os.environ["PATH"] = inherited


def test_the_command_tells_in_words_and_in_json(tmp_path: pathlib.Path) -> None:
    """Exit code 1 where something is wrong; only what a role needs is looked at; nothing is made."""

    async def within() -> None:
        async with internet.start(tmp_path, ()) as net:
            (tmp_path / "tlsrpt.toml").write_text(net.config_text())
            shown = await asyncio.to_thread(_check, tmp_path, "reporter", "--json")
            assert shown.returncode == 0, shown.stdout
            rows = json.loads(shown.stdout)["findings"]
            assert {row["id"] for row in rows} >= {"dns", "relay", "dkim", "store"}
            assert all(row.keys() == {"id", "state", "found", "cure"} for row in rows)
            words = await asyncio.to_thread(_check, tmp_path, "policy")
            assert words.returncode == 1
            assert "error   policy-socket: there is no socket at" in words.stdout
            assert "\n        tlsrpt serve policy" in words.stdout
            assert not (tmp_path / "tlsrpt.db").exists()

    asyncio.run(within())


def _check(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sender", "check", *arguments, "--config", str(folder / "tlsrpt.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# id, text, tags
TAGS: list[tuple[str, str, dict[str, str]]] = [
    ("a key", "v=DKIM1; k=rsa; p=AB=", {"v": "DKIM1", "k": "rsa", "p": "AB="}),
    ("nothing", "", {}),
    ("no tags", "hello; world", {}),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in TAGS], ids=[row[0] for row in TAGS])
def test_tags_are_read_as_far_as_they_are_some(text: str, expected: Any) -> None:
    """What others publish may be anything."""
    assert names.tags(text) == expected


def test_journals_are_only_looked_at(tmp_path: pathlib.Path) -> None:
    """A check makes no folder."""
    found_at(tmp_path, lambda _: None)
    assert journal.segments(tmp_path / "journal") == []
    assert not (tmp_path / "journal").exists()
