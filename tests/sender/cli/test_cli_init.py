"""``tlsrpt init``: from nothing to a configuration that ``check`` and ``serve`` take."""

import asyncio
import grp
import json
import os
import pathlib
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import dns.zone
import pytest
from dns.rdtypes.ANY import TXT

from sender import config, installing, signature
from sender.check import names as check_names
from sender.check import postfix
from sender.demo import internet, zone

Command = Callable[..., subprocess.CompletedProcess[str]]

CHECKOUT = pathlib.Path(__file__).parents[3]

ARGUMENTS = ("init", "--domain", "sender.example", "--contact", "postmaster@sender.example")


def test_it_writes_a_configuration_that_works(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """The file and the key are for the service only; the record that is printed is the one that check wants."""
    path = tmp_path / "new" / "tlsrpt.toml"
    done = tlsrpt(*ARGUMENTS, "--config", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    settings = config.load(path, {})
    assert config.identity(settings).contact == "postmaster@sender.example"
    assert {file.name: file.stat().st_mode & 0o007 for file in path.parent.iterdir()} == {
        "tlsrpt.toml": 0,
        "dkim.pem": 0,
    }
    signer = signature.Signer.load(settings.mail.dkim_key, settings.mail.dkim_selector, "sender.example")
    assert (signer.bits, signer.is_weak) == (2048, False)
    assert check_names.key(signer, ["".join(published(done.stdout))]).state == "ok"


def published(printed: str) -> list[str]:
    """Return the strings of the record that is to be published, which a zone file takes as they are."""
    (line,) = re.findall(r"^(tlsrpt\._domainkey\.sender\.example\. IN TXT .*)$", printed, re.MULTILINE)
    read = dns.zone.from_text(line.replace(" IN ", " 300 IN "), origin="sender.example.", check_origin=False)
    ((_, _, record),) = read.iterate_rdatas("TXT")
    assert isinstance(record, TXT.TXT)
    return [string.decode() for string in record.strings]


# id, options, bits of the key
KEYS = [("RSA", (), 2048), ("Ed25519", ("--ed25519",), 256)]


@pytest.mark.parametrize(("options", "bits"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
def test_keys_are_of_the_kind_that_was_asked_for(
    tlsrpt: Command, tmp_path: pathlib.Path, options: tuple[str, ...], bits: int
) -> None:
    """Without a service that it is for, nobody else may read it: the group of who runs this may be everybody's."""
    path = tmp_path / "new" / "tlsrpt.toml"
    done = tlsrpt(*ARGUMENTS, *options, "--config", str(path))
    assert done.returncode == 0
    key = path.with_name("dkim.pem")
    signer = signature.Signer.load(str(key), "tlsrpt", "sender.example")
    assert signer.bits == bits
    assert check_names.key(signer, ["".join(published(done.stdout))]).state == "ok"
    if all(entry.gr_name != installing.GROUP for entry in grp.getgrall()):
        assert key.stat().st_mode & 0o777 == 0o600


def test_a_key_that_cannot_be_made_leaves_no_configuration(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """Or it would name a key that is not there, and the next run would refuse to write it."""
    (tmp_path / "new" / "dkim.pem.new").mkdir(parents=True)
    done = tlsrpt(*ARGUMENTS, "--config", str(tmp_path / "new" / "tlsrpt.toml"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dkim.pem.new"]


def test_check_names_what_init_leaves_to_do(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """Nothing more than the service, main.cf and the DNS; what init printed is the cure."""
    program = tmp_path / "postconf"
    lines = ("#!/bin/sh", 'test "$1" = -M && echo smtp unix - - y - - smtp && exit', "echo mail_version = 3.10.4")
    program.write_text("\n".join((*lines, f"echo queue_directory = {tmp_path}/spool", "echo smtp_host_lookup = dns")))
    program.chmod(0o755)
    path = tmp_path / "new" / "tlsrpt.toml"

    async def within() -> None:
        async with internet.start(tmp_path, ()) as net:
            environment = {
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "TLSRPT_RECORDER_SOCKET": f"{tmp_path}/spool/tlsrpt.sock",
                "TLSRPT_RECORDER_SOCKET_GROUP": "",
                "TLSRPT_RECORDER_JOURNAL": f"{tmp_path}/journal",
                "TLSRPT_POLICY_LISTEN": f"unix:{tmp_path}/spool/policy.sock",
                "TLSRPT_STORE_URL": f"sqlite:///{tmp_path}/tlsrpt.db",
                "TLSRPT_DNS_NAMESERVERS": net.nameserver,
            }
            net.zone.sign(check_names.SIGNED)
            net.zone.remove("tlsrpt._domainkey.sender.example")
            arguments = (*ARGUMENTS, "--relay", net.relay, "--config", str(path))
            begun = await asyncio.to_thread(lambda: tlsrpt(*arguments, **environment))
            assert begun.returncode == 0, begun.stderr
            left = await asyncio.to_thread(checked, environment)
            assert {id_ for id_, (state, _) in left.items() if state == "error"} == {
                "recorder-socket",
                "policy-socket",
                "postfix-events",
                "postfix-policies",
                "postfix-anchors",
                "dkim",
            }
            assert {id_ for id_, (state, _) in left.items() if state == "warning"} - {"kernel-queue", "room"} == {
                "postfix-level",
                "postfix-dane",
            }
            assert left["dkim"][1].removeprefix("publish ") in begun.stdout
            net.zone.put("tlsrpt._domainkey.sender.example", zone.Txt("".join(published(begun.stdout))))
            assert (await asyncio.to_thread(checked, environment))["dkim"][0] == "ok"

    def checked(environment: dict[str, str]) -> dict[str, tuple[str, str]]:
        done = tlsrpt("check", "--json", "--config", str(path), **environment)
        assert done.returncode == 1, done.stderr
        return {one["id"]: (one["state"], one["cure"]) for one in json.loads(done.stdout)["findings"]}

    asyncio.run(within())


def test_the_lines_for_postfix_are_those_of_the_snippets(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """And check has nothing to say against them, for new and old versions."""
    settings = config.Config()
    for snippet, version in (("main-3.10.cf", "3.10.0"), ("main-before-3.10.cf", "3.7.11")):
        lines = (CHECKOUT / "conf" / "postfix" / snippet).read_text().splitlines()
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        told = {name.strip(): value.strip() for name, _, value in pairs}
        wanted = postfix.wanted({"mail_version": version}, settings)
        assert wanted.items() <= told.items()
        values = {**wanted, "mail_version": version, "queue_directory": "/var/spool/postfix"}
        followed = config.parse('[follower]\nlog = "/var/log/mail.log"', {})
        assert {one.state for one in postfix.judge(values, followed)} == {"ok"}
    printed = tlsrpt(*ARGUMENTS, "--config", str(tmp_path / "x.toml")).stdout
    assert all(f"{name} = {value}" in printed for name, value in postfix.wanted({}, settings).items())


def test_nothing_is_overwritten_unasked(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """A key never is: receivers know it."""
    path = tmp_path / "new" / "tlsrpt.toml"
    assert tlsrpt(*ARGUMENTS, "--config", str(path)).returncode == 0
    key, written = (tmp_path / "new" / "dkim.pem").read_bytes(), path.read_text()
    again = tlsrpt(*ARGUMENTS, "--config", str(path))
    assert (again.returncode, again.stdout) == (1, "")
    assert "is there already" in again.stderr
    assert "--force" in again.stderr
    forced = tlsrpt(*ARGUMENTS, "--no-dkim", "--relay", "smtps://relay.example", "--force", "--config", str(path))
    assert forced.returncode == 0
    assert (tmp_path / "new" / "dkim.pem").read_bytes() == key
    assert path.read_text() != written
    assert config.load(path, {}).mail.dkim_key == ""


# id, options, what the line says, exit code
WRONG = [
    ("no contact", ["init", "--domain", "a.example"], "--contact is missing", 2),
    ("no domain", ["init", "--domain", "-", "--contact", "a@a.example"], "organization.domain", 2),
    ("a contact elsewhere", ["init", "--domain", "a.example", "--contact", "a@b.example"], "organization.contact", 2),
    ("a relay that is none", [*ARGUMENTS, "--relay", "http://x"], "mail.relay", 2),
]


@pytest.mark.parametrize(("arguments", "expected", "code"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_an_answer_that_cannot_be_used_writes_nothing(
    tlsrpt: Command, tmp_path: pathlib.Path, arguments: list[str], expected: str, code: int
) -> None:
    """One line."""
    done = tlsrpt(*arguments, "--config", str(tmp_path / "new" / "tlsrpt.toml"))
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert not (tmp_path / "new").exists()


def test_on_a_terminal_it_asks(tmp_path: pathlib.Path) -> None:
    """What was not given as options."""
    path = tmp_path / "tlsrpt.toml"
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "sender", "init", "--config", str(path)]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        for asked, answer in ((b"Domain", b"a.example\n"), (b"Contact", b"p@a.example\n")):
            seen = b""
            while asked not in seen:
                seen += os.read(parent, 1024)
            os.write(parent, answer)
        while process.poll() is None:
            try:
                os.read(parent, 1024)
            except OSError:  # the other end is closed
                break
    os.close(parent)
    assert process.returncode == 0
    assert config.load(path, {}).organization.contact == "p@a.example"


def test_what_is_quoted_is_read_back() -> None:
    """TOML has its own rules."""
    odd = 'smtp://us%22er:pa"ss\\w@relay.example'
    answers = installing.Answers("a.example", "p@a.example", odd, "")
    assert config.parse(installing.text(answers, None), {}).mail.relay == odd
