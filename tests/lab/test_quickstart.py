"""``docs/quickstart.md``, command by command, up to the report that arrives.

The commands are read out of the document and run as they stand by a shell in an installed Debian 13
(``tests.lab.machine``), in a network namespace with a made-up internet: DNS with signed zones, a policy host, a
receiving MTA without STARTTLS, and a mailbox for reports. What needs a running systemd or the real internet is done
otherwise; :func:`step` has all of these, and refuses commands that it does not know.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from sender.demo import certificates, mailbox, mx, verify
from tests.lab import day, machine, mta, namespace, product, roots, scenarios, sites, unbound, world
from tests.lab import zone as zones

DOCUMENT = product.CHECKOUT / "docs/quickstart.md"

SOURCES = ("README.md", "LICENSE", "pyproject.toml", "sender", "policy", "conf")
"""Of the checkout, as far as an installation needs it."""

FOLDER = "/root/tlsrpt"
"""Where the document's reader has the sources."""

OWN, OTHER = "example.com", "example.net"
"""Whom the document sends from, and to."""

RECIPIENT = scenarios.Scenario(
    id="quickstart", name=OTHER, hosts=(scenarios.Host(temper=mx.Temper.NO_STARTTLS),), sts=scenarios.Sts()
)
"""A domain whose policy demands TLS, and whose MX host has none."""

VERBATIM = frozenset(
    {"install", "ln", "postconf", "printf", "python3", "sysctl", "systemd-sysusers", "systemd-tmpfiles", "tlsrpt"}
)
"""Programs of commands that are run as they stand, with nothing around it."""

GOOD = {"tlsrpt check": (0, 1)}
"""Exit codes besides 0: ``check`` has something to say, :func:`test_check_is_content` says what it may be."""

TOLERATED = {
    "clock": "whether the machine's clock is kept right is no business of the document",
    "room": "nor is the room on its disk",
}
"""Warnings and errors of ``check``."""

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)

ACTIVATED = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); "
    'os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1"); os.execvp(sys.argv[2], sys.argv[2:])'
)
"""Hands a socket over as systemd does; run by the Python that the document installs."""


def commands(text: str) -> list[str]:
    """Return the commands of a document in order.

    Raises:
        AssertionError: a line of a console block is no command of root.
    """
    lines = [line for block in CONSOLE.findall(text) for line in block.splitlines()]
    assert all(line.startswith("# ") for line in lines), lines
    return [line.removeprefix("# ") for line in lines]


@dataclasses.dataclass
class Run:
    """The commands as they are run, and what they said."""

    machine: machine.Machine
    wheels: pathlib.Path
    stack: contextlib.ExitStack
    publish: Callable[[str], None]
    """Puts a line of a zone file into the DNS."""
    said: dict[str, str] = dataclasses.field(default_factory=dict)
    """What each command printed."""
    services: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)

    def run(self, command: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a command as it stands; return what it printed."""
        good = GOOD.get(command, (0,))
        self.said[command] = self.machine.run(command, variables, folder=FOLDER, good=good).stdout
        return self.said[command]


Step = Callable[[Run, str], object]


def step(command: str) -> Step:
    """Return how a command is run.

    Raises:
        AssertionError: nobody has said so.
    """
    program, *arguments = shlex.split(command, comments=True)
    name = pathlib.PurePath(program).name
    for words, way in OTHERWISE.items():
        if [name, *arguments][: len(words)] == list(words):
            return way
    assert name in VERBATIM, f"nobody has said how this is run: {command}"
    return Run.run


def _outside(run: Run, command: str) -> None:
    with namespace.left():
        run.run(command)


def _initialize(run: Run, command: str) -> None:
    """Run it, and publish what it says is to be published."""
    (record,) = re.findall(r"^\S+\._domainkey\.\S+ IN TXT .*$", run.run(command), re.MULTILINE)
    run.publish(record)


def _until_pending(run: Run, command: str) -> None:
    deadline = time.monotonic() + mta.PATIENCE
    while OTHER not in run.run(command):
        assert time.monotonic() < deadline, f"no session: {run.said[command]}"
        time.sleep(0.2)


def _restart(run: Run, name: str) -> None:
    """Do what the unit of a service does, without its restrictions."""
    wanted = run.machine.unit(name)
    variables = {"INVOCATION_ID": "0" * 32, **dict(pair.split("=", 1) for pair in wanted.all("Environment"))}
    if name in run.services:
        machine.end(run.services.pop(name))
    with _as_under_systemd(run.machine.root):
        for line in wanted.all("ExecStartPre"):
            run.machine.run(_plain(line), variables, good=range(256) if line.startswith("-") else (0,))
        if wanted.one("Type") == "forking":
            run.machine.run(_plain(wanted.one("ExecStart")), variables)
        else:
            _start(run, name, ["exec", _plain(wanted.one("ExecStart"))], variables)


@contextlib.contextmanager
def _as_under_systemd(root: pathlib.Path) -> Iterator[None]:
    """Have the folder by which Postfix's unit tells that it is systemd that starts it."""
    folder = root / "run/systemd/system"
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        folder.rmdir()


def _plain(line: str) -> str:
    return line.lstrip("-+")


def _start(run: Run, name: str, words: list[str], variables: Mapping[str, str], handed: tuple[int, ...] = ()) -> None:
    """Run a service of ``Type=notify`` in the foreground; return when it says that it is ready."""
    path = run.machine.root / "run" / f"{name}.notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        path.chmod(0o666)
        notify.settimeout(mta.PATIENCE)
        command = run.machine.command(" ".join(words), {**variables, "NOTIFY_SOCKET": f"/run/{name}.notify"})
        log = run.stack.enter_context((run.machine.root / "run" / f"{name}.log").open("wb"))
        run.services[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=handed
        )
        ready = b""
        try:
            while b"READY=1" not in ready:
                ready = notify.recv(4096)
        except TimeoutError:
            said = (run.machine.root / "run" / f"{name}.log").read_text()
            raise AssertionError(f"{name} is not ready: {said[-4000:]}") from None


def _activate(run: Run, socket_name: str, service_name: str) -> None:
    """Bind the socket, and run the service as its user with the socket handed over."""
    listening, service = run.machine.unit(socket_name), run.machine.unit(service_name)
    root, path = run.machine.root, listening.one("ListenDatagram")
    bound = run.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    bound.bind(f"{root}{path}")
    owner = f"{listening.one('SocketUser')}:{listening.one('SocketGroup')}"
    run.machine.run(f"chown {owner} {path} && chmod {listening.one('SocketMode')} {path}")
    user, group = service.one("User"), service.one("Group")
    state = f"/var/lib/{service.one('StateDirectory')}"
    run.machine.run(f"install -d -o {user} -g {group} -m {service.one('StateDirectoryMode')} {state}")
    becoming = f"setpriv --reuid={user} --regid={group} --groups={group},{service.one('SupplementaryGroups')}"
    activated = f"/opt/tlsrpt/bin/python -c {shlex.quote(ACTIVATED)} {bound.fileno()}"
    words = ["umask", service.one("UMask"), "&&", "exec", becoming, activated, service.one("ExecStart")]
    _start(run, service_name, words, {}, (bound.fileno(),))


OTHERWISE: dict[tuple[str, ...], Step] = {
    ("apt-get",): _outside,
    ("pip", "install"): lambda run, command: run.run(command, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}),
    ("systemctl", "daemon-reload"): lambda _run, _command: None,
    ("systemctl", "restart"): lambda run, command: _restart(run, f"{command.split()[2]}.service"),
    ("systemctl", "enable", "--now"): lambda run, command: _activate(run, *command.split()[3:]),
    ("tlsrpt", "init"): _initialize,
    ("tlsrpt", "pending"): _until_pending,
}
"""How commands are run that are not run as they stand, or not only, by their first words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What came of the whole document."""

    run: Run
    mails: list[mailbox.Message]
    checked: list[verify.Verified]
    findings: list[dict[str, Any]]
    date: dt.date


@pytest.fixture(scope="module")
def done(debian: pathlib.Path, wheels: pathlib.Path, scratch: pathlib.Path) -> Iterator[Done]:
    """Run the document from its beginning to its end."""
    day.stay_clear_of_midnight()
    root = roots.copy(debian, scratch / "quickstart")
    shutil.copytree(wheels, root / "wheels")
    for name in SOURCES:
        (root / FOLDER.strip("/")).mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", product.CHECKOUT / name, root / FOLDER.strip("/")], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    authority = certificates.Authority()
    planned = sites.plan([RECIPIENT], authority)
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespace.entered(sites.addresses(planned), queue=10))
        receiving = stack.enter_context(world.running(planned, authority))
        inside = stack.enter_context(machine.running(root, {"TLSRPT_HTTPS_ALLOW_PRIVATE": "true"}))
        trusted = root / "usr/local/share/ca-certificates/lab.crt"
        trusted.write_bytes(authority.ca_pem)
        inside.run("update-ca-certificates")
        records = _records(planned)
        run = Run(inside, wheels, stack, lambda line: _publish(run, records, line))
        stack.callback(_end, run)
        _serve_zones(root, records)
        for command in commands(DOCUMENT.read_text()):
            step(command)(run, command)
        mails = _received(receiving)
        checked = [asyncio.run(verify.mail(one.content, f"{unbound.ADDRESS}:{unbound.PORT}")) for one in mails]
        findings = json.loads(inside.run("tlsrpt check --json", good=(0, 1)).stdout)["findings"]
        yield Done(run, mails, checked, findings, dt.datetime.now(dt.UTC).date())


def _end(run: Run) -> None:
    for process in run.services.values():
        machine.end(process)


def _records(planned: tuple[sites.Site, ...]) -> list[sites.Record]:
    """Return what is in the DNS before the reader publishes anything."""
    shared = [
        record for record in sites.records(planned, "", product.SELECTOR) if not record[0].endswith(sites.ORGANIZATION)
    ]
    own = [
        (OWN, "MX", f"10 mx.{sites.REPORTS}."),
        (OWN, "TXT", '"v=spf1 ip4:192.0.2.0/24 -all"'),
        (f"_dmarc.{OWN}", "TXT", '"v=DMARC1; p=reject"'),
        ("org", "TXT", '"signed"'),
    ]
    return [*shared, *own]


def _serve_zones(root: pathlib.Path, records: list[sites.Record]) -> None:
    """Put the made-up DNS into the resolver that the document installs, and nothing else."""
    served = [zones.signed(name, records) for name in ("example", OWN, OTHER, "org")]
    folder = root / "etc/unbound"
    (folder / "unbound.conf.d").mkdir(parents=True, exist_ok=True)
    for zone in served:
        (folder / f"{zone.name}.zone").write_text(zone.text)
    nothing_else = 'server:\n    do-not-query-localhost: no\n    local-zone: "." always_nxdomain\n'
    text = nothing_else + "".join(map(unbound.section, served))
    (folder / "unbound.conf.d/lab.conf").write_text(text)


def _publish(run: Run, records: list[sites.Record], line: str) -> None:
    found = re.fullmatch(r"(\S+)\. IN (TXT) (.*)", line)
    assert found, line
    records.append((found[1], found[2], found[3]))
    _serve_zones(run.machine.root, records)
    _restart(run, "unbound.service")


def _received(receiving: world.World) -> list[mailbox.Message]:
    """Wait for the report; return what is in its mailbox then."""
    deadline = time.monotonic() + mta.PATIENCE
    while not receiving.mail.mailbox.messages and time.monotonic() < deadline:
        time.sleep(mta.GLANCE)
    return list(receiving.mail.mailbox.messages)


def test_the_report_arrives_where_the_record_says(done: Done) -> None:
    """One mail, from the document's domain, to the mailbox in the TLSRPT record of the domain it sent to."""
    assert [(one.sender, list(one.recipients)) for one in done.mails] == [
        (f"noreply-tls-reports@{OWN}", [f"{RECIPIENT.id}@{sites.REPORTS}"])
    ]


def test_the_report_is_valid(done: Done) -> None:
    """A receiver finds nothing wrong with it: DKIM by the published key, MIME, gzip, JSON Schema, names."""
    assert [(check.name, check.text) for one in done.checked for check in one.checks if not check.passed] == []
    assert len(done.checked) == 1


def test_the_report_tells_of_the_test_mail(done: Done) -> None:
    """Its one session failed for want of STARTTLS, under the policy that the domain publishes."""
    (document,) = [json.loads(one.document or b"{}") for one in done.checked]
    (policy,) = document["policies"]
    assert policy["policy"]["policy-type"] == "sts"
    assert policy["policy"]["policy-domain"] == OTHER
    assert policy["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": 1}
    assert [one["result-type"] for one in policy["failure-details"]] == ["starttls-not-supported"]
    assert document["contact-info"] == f"postmaster@{OWN}"
    assert document["date-range"]["start-datetime"] == f"{done.date}T00:00:00Z"


def test_check_is_content(done: Done) -> None:
    """After all steps nothing is wrong but what the document is not about."""
    bad = {one["id"]: one["found"] for one in done.findings if one["state"] in {"warning", "error"}}
    assert {id_: found for id_, found in bad.items() if id_ not in TOLERATED} == {}
    assert {one["id"] for one in done.findings} >= {"recorder-socket", "policy-socket", "dnssec", "dkim", "relay"}


def test_main_cf_is_what_init_says(done: Done) -> None:
    """The document's ``postconf`` commands set what ``tlsrpt init`` printed, all of it."""
    (said,) = [said for command, said in done.run.said.items() if command.startswith("tlsrpt init")]
    printed = dict(re.findall(r"^(smtp_\w+) = ?(.*)$", said, re.MULTILINE))
    assert {name: done.run.machine.run(f"postconf -h {name}").stdout.strip() for name in printed} == printed != {}


def test_history_has_the_answer(done: Done) -> None:
    """The last command of the document shows that the report was taken."""
    assert f"{RECIPIENT.id}@{sites.REPORTS}" in done.run.said["tlsrpt history"]
    assert "delivered" in done.run.said["tlsrpt history"]


def test_every_command_of_the_document_is_known() -> None:
    """There are commands, each is run in a way that somebody has said, and all that matter are there."""
    found = commands(DOCUMENT.read_text())
    assert [step(command) for command in found]
    for beginning in (
        "apt-get install",
        "tlsrpt init",
        "systemctl enable",
        "postconf -e",
        "tlsrpt report --day today --now",
    ):
        assert any(command.startswith(beginning) for command in found), beginning


@pytest.mark.parametrize("command", ["curl https://example.com", "systemctl mask tlsrpt", "pip download tlsrpt"])
def test_a_command_that_nobody_knows_fails(command: str) -> None:
    """Nothing is left out silently."""
    with pytest.raises(AssertionError, match="nobody has said"):
        step(command)


def test_a_line_that_is_no_command_fails() -> None:
    """Output, or a command without its prompt, would not be run."""
    with pytest.raises(AssertionError):
        commands("```console\n# tlsrpt check\ntlsrpt pending\n```\n")
