"""``tlsrpt check``: a healthy installation, and the same with one thing broken each, named with its cure."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from policy import answers, cache, endpoints, https, listeners, resolver, server, tlsrpt
from sender import config, journal, report, signature
from sender.check import findings, machine, names, postfix, running, sockets
from sender.demo import internet, zone
from sender.store import deliveries, embedded, engine, recorders, reports
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
    service: str = "smtp unix - - y - - smtp"
    """Of master.cf."""
    policy: str = "answers"
    """What is at the policy socket: that, ``deaf``, ``stale`` or ``absent``."""
    listening: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

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
    net.zone.sign(names.SIGNED)
    made = Site(net, folder, text, values)
    with made.listening as listening:
        sock = listening.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.bind(str(queue / net.recorder_socket.name))
        made.store().close()
        yield made


@contextlib.asynccontextmanager
async def policy_socket(made: Site) -> AsyncIterator[None]:
    """Have at the policy socket what a test wants there."""
    path = made.folder / "spool" / made.net.policy_socket.name
    dns = resolver.Resolver([made.net.nameserver])
    async with contextlib.AsyncExitStack() as stack:
        if made.policy == "answers":
            client = await stack.enter_async_context(https.Client(made.settings().https, dns))
            answering = answers.Answers(dns, client, cache.Cache("", 0), report=lambda _: None)
            stack.push_async_callback(answering.close)
            await stack.enter_async_context(server.serving(answering, endpoints.listen([f"unix:{path}"])))
        elif made.policy != "absent":
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.bind(str(path))
            if made.policy == "deaf":
                sock.listen()
        yield


@contextlib.contextmanager
def postconf(made: Site) -> Iterator[str]:
    """Have a program of that name first on PATH, which prints what a site has; yield the PATH."""
    folder = made.folder / "sbin"
    folder.mkdir()
    (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in made.values.items()))
    (folder / "master.cf").write_text(made.service)
    program = folder / "postconf"
    program.write_text(f'#!/bin/sh\ncase "$1" in -M) cat "{folder}/master.cf" ;; *) cat "{folder}/main.cf" ;; esac\n')
    program.chmod(0o755)
    with on_path(folder) as path:
        yield path


@contextlib.contextmanager
def on_path(folder: pathlib.Path) -> Iterator[str]:
    """Have a folder first on PATH; yield that."""
    inherited = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{inherited}"
    try:
        yield os.environ["PATH"]
    finally:
        os.environ["PATH"] = inherited


def found_at(folder: pathlib.Path, break_: Callable[[Site], None]) -> dict[str, findings.Finding]:
    """Break an installation, and return what is found, by id."""

    async def within() -> list[findings.Finding]:
        async with internet.start(folder, ()) as net:
            with site(net, folder) as made:
                break_(made)
                roles = [*running.ROLES, *([running.FOLLOWER] if made.settings().follower.log else [])]
                async with policy_socket(made):
                    with postconf(made):
                        return await running.look(made.settings(), roles)

    return {one.id: one for one in asyncio.run(within())}


def test_a_healthy_installation_is_fine(tmp_path: pathlib.Path) -> None:
    """The command ends with 0, as far as the machine is well that the tests run on."""

    async def within() -> None:
        async with internet.start(tmp_path, ()) as net:
            with site(net, tmp_path) as made:
                (tmp_path / "tlsrpt.toml").write_text(made.text)
                async with policy_socket(made):
                    with postconf(made):
                        done = await asyncio.to_thread(_check, tmp_path, "--json")
                found = json.loads(done.stdout)["findings"]
                here = {one["id"]: one["state"] for one in found if one["id"] not in ELSEWHERE}
                assert here.pop("own-mta-sts") == HINT
                assert set(here.values()) == {OK}, here
                assert {"recorder-socket", "policy-socket", "postfix-events", "dnssec", "relay"} <= here.keys()
                bad = [one for one in found if one["state"] in findings.BAD]
                assert done.returncode == (1 if bad else 0)

    asyncio.run(within())


def _unlink(made: Site) -> None:
    (made.folder / "spool" / "tlsrpt.sock").unlink()


def _policy(state: str) -> Callable[[Site], None]:
    return lambda made: setattr(made, "policy", state)


def _service(line: str, **values: str) -> Callable[[Site], None]:
    def change(made: Site) -> None:
        made.service = line
        made.values.update(values)

    return change


def _policy_outside(made: Site) -> None:
    made.policy = "absent"
    made.change(str(made.folder / "spool" / "policy.sock"), str(made.folder / "policy.sock"))


def _follow(log: str) -> Callable[[Site], None]:
    def change(made: Site) -> None:
        made.values.update(OLD | QUERY | {"smtp_tls_loglevel": "0"})
        made.text += f'[follower]\nlog = "{log}"\n'

    return change


def _file(made: Site) -> None:
    path = made.folder / "spool" / "tlsrpt.sock"
    path.unlink()
    path.write_text("no socket")


def _set(**values: str) -> Callable[[Site], None]:
    return lambda made: made.values.update(values)


def _outside(made: Site) -> None:
    made.change(str(made.folder / "spool" / "tlsrpt.sock"), str(made.folder / "tlsrpt.sock"))


def _absolute(made: Site) -> None:
    made.values["smtp_tls_policy_maps"] = f"socketmap:unix:{made.folder}/spool/policy.sock:QUERYwithTLSRPT"


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


def _unsigned(made: Site) -> None:
    made.net.zone.unsign(names.SIGNED)


def _foreign_key(made: Site) -> None:
    made.key(f"v=DKIM1; s=email; p={made.signer().public}")


def _key(tag: str) -> Callable[[Site], None]:
    return lambda made: made.key(f"v=DKIM1; {tag}; p={made.signer().public}")


def _two_keys(made: Site) -> None:
    made.net.zone.put(f"{internet.DKIM_SELECTOR}._domainkey.{ORGANIZATION}", zone.Txt("v=DKIM1; p=AAAA"))


def _remove(name: str) -> Callable[[Site], None]:
    return lambda made: made.net.zone.remove(f"{name}{ORGANIZATION}")


def _relay(made: Site) -> None:
    made.change(made.net.relay, made.net.relay.replace("smtp://", "smtps://"))


def _no_server(made: Site) -> None:
    made.change(f"sqlite:///{made.folder / 'tlsrpt.db'}", "postgresql://u@127.0.0.1:1/d")


def _failing(made: Site) -> None:
    made.net.zone.temper(f"_dmarc.{ORGANIZATION}", zone.Temper.SERVFAIL)


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


def _without_a_table(made: Site) -> None:
    store = made.store()
    with store.write() as connection:
        connection.execute(sa.text("DROP TABLE recorders"))
    store.close()


def _little_of_three_days_ago(made: Site) -> None:
    (made.folder / "journal").mkdir()
    day = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    path = made.folder / "journal" / f"{day.date()}.00000000000.ndjson"
    path.write_text("{}\n")
    os.utime(path, (day.timestamp(), day.timestamp()))


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
NONE = {"smtp_tls_policy_maps": "hash:x"}
CACHE = {"smtp_tls_session_cache_database": "btree:x"}
LEVEL = "smtp unix - - y - - smtp -o smtp_tls_security_level=none -o smtp_helo_timeout=5"
BRACES = "smtp unix - - y - - smtp -o { smtp_tls_policy_maps = hash:/x }"
QUERY = {"smtp_tls_policy_maps": "socketmap:unix:policy.sock:QUERY"}

# id, what is broken, which finding, its state, what the cure has
BROKEN: list[tuple[str, Callable[[Site], None], str, findings.State, str]] = [
    ("no recorder socket", _unlink, "recorder-socket", ERROR, "tlsrpt serve recorder"),
    ("a file instead", _file, "recorder-socket", ERROR, "rm "),
    ("nobody receives", lambda made: made.listening.close(), "recorder-socket", ERROR, "tlsrpt serve recorder"),
    ("no recorder", _no_recorder, "recorder-socket", ERROR, "serve"),
    ("no policy socket", _policy("absent"), "policy-socket", ERROR, "tlsrpt serve policy"),
    ("nobody listens", _policy("stale"), "policy-socket", ERROR, "tlsrpt serve policy"),
    ("nobody answers", _policy("deaf"), "policy-socket", ERROR, "restart tlsrpt serve policy"),
    ("a journal of tomorrow", _tomorrow, "journal-days", WARNING, "keep the clock right"),
    ("Postfix reports nothing", _set(smtp_tlsrpt_enable="no"), "postfix-events", ERROR, "smtp_tlsrpt_enable = yes"),
    ("no socket named", _set(smtp_tlsrpt_socket_name=""), "postfix-events", ERROR, "socket_name = tlsrpt.sock"),
    ("another one named", _set(smtp_tlsrpt_socket_name="x"), "postfix-events", ERROR, "socket_name = tlsrpt.sock"),
    ("outside of the chroot", _outside, "chroot", WARNING, "recorder.socket"),
    ("policies outside of it", _policy_outside, "chroot", WARNING, "policy.listen"),
    ("an absolute name in it", _absolute, "postfix-policies", ERROR, "unix:policy.sock:QUERYwithTLSRPT"),
    ("an option in master.cf", _service(LEVEL), "postfix-level", WARNING, "smtp_tls_security_level = may"),
    ("another one in braces", _service(BRACES), "postfix-policies", ERROR, "hash:/x, socketmap:unix:policy.sock"),
    ("sessions resumed, 3.11", _set(mail_version="3.11.0", **CACHE), "postfix-session-cache", HINT, "database = '"),
    ("nothing logged", _follow("/dev/null"), "postfix-events", ERROR, "smtp_tls_loglevel = 1"),
    ("no log", _follow("/nonexistent/log"), "follower-log", ERROR, "maillog_file"),
    ("sessions resumed", _set(**CACHE), "postfix-session-cache", WARNING, "cache_database = '"),
    ("policies not asked for", _set(**NONE), "postfix-policies", ERROR, "hash:x, socketmap:unix:policy.sock:QUERYwith"),
    ("asked without TLSRPT", _set(**QUERY), "postfix-policies", ERROR, "QUERYwithTLSRPT"),
    ("asked with, before 3.10", _set(**OLD), "postfix-policies", ERROR, "policy.sock:QUERY'"),
    ("no log is read", _set(**OLD, **QUERY), "postfix-events", ERROR, "follower.log"),
    ("no TLS", _set(smtp_tls_security_level=""), "postfix-level", WARNING, "smtp_tls_security_level = may"),
    ("no DNSSEC", _set(smtp_dns_support_level="enabled"), "postfix-dane", WARNING, "smtp_dns_support_level = dnssec"),
    ("hosts from files", _set(smtp_host_lookup="native"), "postfix-dane", WARNING, "smtp_host_lookup = dns"),
    ("no authorities", _set(smtp_tls_CAfile=""), "postfix-anchors", ERROR, "smtp_tls_CAfile"),
    ("a resolver that fails", _failing, "dns", ERROR, "dns.nameservers"),
    ("it does not validate", _unsigned, "dnssec", WARNING, "options trust-ad"),
    ("no DKIM key", _remove("tlsrpt._domainkey."), "dkim", ERROR, "v=DKIM1"),
    ("another key", lambda made: made.key("v=DKIM1; p=AAAA"), "dkim", ERROR, "publish tlsrpt._domainkey"),
    ("a revoked key", lambda made: made.key("v=DKIM1; p="), "dkim", ERROR, "publish tlsrpt._domainkey"),
    ("a key for other mail", _foreign_key, "dkim", ERROR, "s=tlsrpt"),
    ("a key of another kind", _key("k=ed25519"), "dkim", ERROR, "k=rsa"),
    ("a key for SHA-1", _key("h=sha1"), "dkim", ERROR, "v=DKIM1"),
    ("two records", _two_keys, "dkim", WARNING, "leave one"),
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
    ("a tally that died", _little_of_three_days_ago, "tally", WARNING, "serve recorder"),
    ("a store without a table", _without_a_table, "store", ERROR, "store.url"),
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
    user = sockets.User("postfix", "postfix", 100, frozenset({100, 200}))
    assert sockets.may(user, sockets.Rights(mode, uid, gid), wanted) is may


def test_postfix_is_asked_through_postconf(tmp_path: pathlib.Path) -> None:
    """A program of that name on PATH; what it does not know is not there; one that hangs or fails is told."""
    program = tmp_path / "postconf"
    lines = ("#!/bin/sh", "test $1 = -M && exit 1", "echo mail_version = 3.10.4", "echo 'smtp_tls_policy_maps = a,'")
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    with on_path(tmp_path):
        values = {"mail_version": "3.10.4", "smtp_tls_policy_maps": "a,"}
        assert postfix.ask() == {**values, postfix.SERVICE: ""}
        program.write_text("#!/bin/sh\necho 'postconf: fatal: open /etc/postfix/main.cf: denied' >&2\nexit 1\n")
        with pytest.raises(OSError, match="denied"):
            postfix.ask()


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
    """A check makes no folder, and no name for a journal: as root it would make one that the recorder cannot read."""
    found_at(tmp_path, lambda _: None)
    assert not (tmp_path / "journal").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found_at(elsewhere, _little_of_three_days_ago)
    assert [path.suffix for path in (elsewhere / "journal").iterdir()] == [".ndjson"]
    assert journal.known_identity(elsewhere / "journal") is None


def test_what_hangs_holds_nothing_up(tmp_path: pathlib.Path) -> None:
    """A store that somebody has locked for himself is told, after the patience there is; all else is looked at."""
    settings = config.parse(f'[store]\nurl = "sqlite:///{tmp_path}/tlsrpt.db"', {})
    engine.open_store(settings.store.url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "tlsrpt.db", isolation_level=None)) as somebody:
        somebody.execute("PRAGMA locking_mode = EXCLUSIVE")
        somebody.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        found = {one.id: one for one in asyncio.run(running.look(settings, [running.RECORDER], patience=0.5))}
        assert time.monotonic() - begun < embedded.BUSY_TIMEOUT / 2
    assert (found["store"].state, "hangs" in found["store"].cure) == (WARNING, True)
    assert {"clock", "journal", "room", "recorder-socket"} <= found.keys()


def test_what_nobody_foresaw_stops_nothing_else(tmp_path: pathlib.Path) -> None:
    """A path with NUL, which no system call takes; what comes after it is looked at all the same."""
    settings = config.parse(f'[recorder]\nsocket = "/\\u0000"\n[store]\nurl = "sqlite:///{tmp_path}/tlsrpt.db"', {})
    found = {one.id: one for one in asyncio.run(running.look(settings, [running.RECORDER]))}
    assert (found["recorder-socket"].state, "report it" in found["recorder-socket"].cure) == (ERROR, True)
    assert "ValueError" in found["recorder-socket"].found
    assert {"clock", "journal", "store"} <= found.keys()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folders_that_may_not_be_written_to_are_named(tmp_path: pathlib.Path) -> None:
    """With whom to run the check as."""

    def lock(made: Site) -> None:
        (made.folder / "journal").mkdir(mode=0o500)
        (made.folder / "tlsrpt.db").chmod(0o400)

    found = found_at(tmp_path, lock)
    for id_ in ("journal", "store"):
        assert (found[id_].state, "chown" in found[id_].cure) == (ERROR, True)


# id, what is changed, what must be well
FINE: list[tuple[str, Callable[[Site], None], tuple[str, ...]]] = [
    ("no chroot, absolute name", _service("smtp unix - - n - - smtp"), ("postfix-policies", "postfix-events")),
    ("none by default", _service("smtp unix - - - - - smtp", compatibility_level="3.10"), ("postfix-policies",)),
]


@pytest.mark.parametrize(("change", "ids"), [row[1:] for row in FINE], ids=[row[0] for row in FINE])
def test_without_a_chroot_sockets_may_be_anywhere(
    tmp_path: pathlib.Path, change: Callable[[Site], None], ids: tuple[str, ...]
) -> None:
    """And have absolute names in main.cf."""

    def both(made: Site) -> None:
        _absolute(made)
        change(made)

    found = found_at(tmp_path, both)
    assert {found[id_].state for id_ in ids} == {OK}
    assert "chroot" not in found


def test_a_host_without_a_recorder_is_not_told_of_its_events(tmp_path: pathlib.Path) -> None:
    """With ``recorder.socket`` empty there is none to report to."""
    settings = config.parse('[recorder]\nsocket = ""', {})
    assert "postfix-events" not in {one.id for one in postfix.judge({"mail_version": "3.10.4"}, settings)}


WHO = '[organization]\ndomain = "a.example"\ncontact = "p@a.example"\n'

# id, the configuration, what the one line names
UNUSABLE = [
    ("no TOML", "[mail", "tlsrpt.toml"),
    ("an unknown key", "[mail]\nrelais = 1", "relais"),
    ("nobody reports", "", "organization.domain"),
    ("an unknown group", '[recorder]\nsocket_group = "no-such-group"', "recorder.socket_group"),
    ("no key", f'{WHO}[mail]\ndkim_selector = "x"\ndkim_key = "/nonexistent"', "mail.dkim_key"),
    ("a store of another kind", '[store]\nurl = "mysql://x/y"', "store.url"),
]


@pytest.mark.parametrize(("text", "named"), [row[1:] for row in UNUSABLE], ids=[row[0] for row in UNUSABLE])
def test_a_configuration_that_serve_refuses_is_one_line(tmp_path: pathlib.Path, text: str, named: str) -> None:
    """Exit code 2, as with ``tlsrpt serve``."""
    (tmp_path / "tlsrpt.toml").write_text(text)
    done = _check(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert named in line


def test_what_is_looked_at_is_documented() -> None:
    """Ids are a contract."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "check.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {id_ for row in rows for id_ in re.findall(r"`([a-z-]+)`", row)}
    here = pathlib.Path(running.__file__).parent
    made = r'(?:id_(?:, \w+)?(?:, \w+)* = |id_, \w+ = |findings\.\w+\(\s*|_file\()"([a-z-]+)"'
    told = {id_ for file in here.glob("*.py") for id_ in re.findall(made, file.read_text())}
    assert len(told) > len(set(ELSEWHERE))
    assert told - documented == set()
    assert {row[2] for row in BROKEN} - told == set()


def test_alive_looks_at_the_sockets_only(tmp_path: pathlib.Path) -> None:
    """No DNS, no relay, no store; whether somebody answers decides."""
    text = f'[recorder]\nsocket = "{tmp_path}/r.sock"\n[policy]\nlisten = ["unix:{tmp_path}/p.sock"]\n'
    settings = config.parse(text, {})
    found = asyncio.run(running.look(settings, running.ROLES, alive=True))
    assert {one.id: one.state.value for one in found} == {"recorder-socket": "error", "policy-socket": "error"}
    with contextlib.closing(listeners.bind_unix(tmp_path / "r.sock", socket.SOCK_DGRAM, 0o660)):
        (one,) = asyncio.run(running.look(settings, ["recorder"], alive=True))
        assert one.state.value == "ok" or "may not" in one.found
