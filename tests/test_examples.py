"""The programs of ``docs/custom-mta.md``, taken out of it and run against ``tlsrpt serve recorder policy``.

Each is run as a reader would: the Python ones by a Python without tlsrpt's modules, those in C after they are compiled
without a warning, those for the shell by sh with ``tlsrpt`` in the path.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from policy import cache, mtasts

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs/custom-mta.md"
EXAMPLE = re.compile(r"^<!-- example: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(?:python|c|sh)$", re.MULTILINE)

EXAMPLES = {match["name"]: match["text"] for match in EXAMPLE.finditer(DOCUMENT.read_text())}

SECURE = "secure.example"
"""A domain with a policy that was fetched before: it holds while the DNS is in trouble, and here there is no DNS."""

POLICY = b"version: STSv1\nmode: enforce\nmx: *.secure.example\nmax_age: 604800\n"

PATIENCE = 30.0
"""Seconds for a program or a start."""


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """A tlsrpt that serves, and the programs beside it."""

    folder: pathlib.Path

    @property
    def config(self) -> str:
        """Its configuration."""
        return str(self.folder / "tlsrpt.toml")

    @property
    def recorder(self) -> str:
        """Where sessions are told."""
        return str(self.folder / "tlsrpt.sock")

    @property
    def policy(self) -> str:
        """Where policies are asked for."""
        return str(self.folder / "policy.sock")

    def run(
        self, name: str, *arguments: str, text: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an example to its end."""
        runners = {".py": [sys.executable, "-I"], ".sh": ["sh"], ".c": []}
        path = self.folder / name
        program = [*runners[path.suffix], str(path.with_suffix("") if path.suffix == ".c" else path)]
        return command([*program, *arguments], text, environment)

    def tlsrpt(self, *arguments: str) -> str:
        """Run a command of tlsrpt; return what it printed."""
        done = command([str(pathlib.Path(sys.executable).with_name("tlsrpt")), *arguments, "--config", self.config])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def counted(self, domain: str, sessions: int) -> tuple[int, int]:
        """Return how many sessions with a domain succeeded and failed, once there are so many."""
        deadline = time.monotonic() + PATIENCE
        while True:
            days = json.loads(self.tlsrpt("pending", domain, "--json"))["domain_days"]
            found = (sum(day["successful"] for day in days), sum(day["failed"] for day in days))
            if sum(found) >= sessions or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def command(
    arguments: list[str], text: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TLSRPT_")}
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), kept.get("PATH", "")])
    return subprocess.run(
        arguments,
        input=text,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env={**kept, "PATH": path, **(environment or {})},
    )


def compile_(source: pathlib.Path) -> None:
    """Compile a program in C; a warning is an error."""
    if shutil.which("gcc") is None and not os.environ.get("CI"):
        pytest.skip("gcc is not installed (Debian: apt-get install gcc libc6-dev)")
    done = command(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(source.with_suffix("")), str(source)])
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve recorder and policy, with the document's programs in the same folder."""
    site = Site(tmp_path_factory.mktemp("x"))
    for name, text in EXAMPLES.items():
        (site.folder / name).write_text(text)
    config = f"""\
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[recorder]
socket = "{site.recorder}"
journal = "{site.folder / "journal"}"
[store]
url = "sqlite:///{site.folder / "tlsrpt.db"}"
[policy]
listen = ["unix:{site.policy}"]
cache = "{site.folder / "policy.db"}"
[dns]
nameservers = ["127.0.0.1:1"]
"""
    (site.folder / "tlsrpt.toml").write_text(config)
    kept = cache.Cache(site.folder / "policy.db", time.time())
    kept.put(cache.Kept(SECURE, "1", mtasts.parse_policy(POLICY), time.time()))
    kept.close()
    arguments = [sys.executable, "-m", "sender", "serve", "recorder", "policy", "--config", site.config]
    with (site.folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not all(pathlib.Path(path).is_socket() for path in (site.recorder, site.policy)):
            assert process.poll() is None, (site.folder / "log").read_text()
            assert time.monotonic() < deadline, (site.folder / "log").read_text()
            time.sleep(0.02)
        yield site
    finally:
        process.terminate()
        process.wait(PATIENCE)


# example, domain, how many sessions of it succeeded and failed
TELLING = [
    ("tell.py", "python.example", (1, 1)),
    ("tell.c", "c.example", (1, 0)),
]


@pytest.mark.parametrize(("name", "domain", "counted"), TELLING, ids=[row[0] for row in TELLING])
def test_a_session_that_is_told_is_counted(site: Site, name: str, domain: str, counted: tuple[int, int]) -> None:
    """A datagram for each; the program ends well."""
    if name.endswith(".c"):
        compile_(site.folder / name)
    done = site.run(name, site.recorder, domain)
    assert (done.returncode, done.stderr) == (0, "")
    assert site.counted(domain, sum(counted)) == counted


@pytest.mark.parametrize("name", ["tell.py", "tell.c"])
def test_telling_nobody_fails_at_once(site: Site, name: str) -> None:
    """No program waits for a recorder that is not there."""
    if name.endswith(".c"):
        compile_(site.folder / name)
    done = site.run(name, str(site.folder / "nobody.sock"), "nobody.example")
    assert done.returncode == 1
    assert "not told" in done.stderr


def test_what_python_tells_is_in_the_report(site: Site) -> None:
    """Policy, result type and MX host, as the document says it."""
    site.run("tell.py", site.recorder, "said.example")
    site.counted("said.example", 2)
    (policy,) = json.loads(site.tlsrpt("show", "said.example", "--json"))["policies"]
    assert policy["policy"]["policy-type"] == "sts"
    assert policy["policy"]["mx-host"] == ["mx.said.example"]
    (failure,) = policy["failure-details"]
    assert failure["result-type"] == "starttls-not-supported"
    assert failure["receiving-mx-hostname"] == "mx.said.example"


@pytest.mark.parametrize("domain", ["", 'a"b', "a\nb", "a" * 300])
def test_the_program_in_c_takes_no_name_that_json_must_escape(site: Site, domain: str) -> None:
    """Names come from strangers."""
    compile_(site.folder / "tell.c")
    assert site.run("tell.c", site.recorder, domain).returncode == 2


def test_the_shell_script_makes_sessions_of_a_log(site: Site) -> None:
    """Known lines are counted; what is not known is named, and stops nothing."""
    log = "sh.example mx.sh.example ok\nsh.example mx.sh.example certificate-expired\n"
    log += 'sh.example mx.sh.example who-knows\nb"d mx ok\nsh.example mx2.sh.example starttls-not-supported\n'
    done = site.run("tell.sh", site.config, text=log)
    assert (done.returncode, done.stdout) == (0, "3 submitted\n")
    assert done.stderr == 'not known: who-knows\nno name: b"d mx\n'
    assert site.counted("sh.example", 3) == (1, 2)


def test_a_file_of_sessions_is_submitted(site: Site) -> None:
    """The example of the datagram format goes through ``tlsrpt submit``, on one line."""
    text = (DOCUMENT.with_name("datagram.md")).read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = site.folder / "sessions.ndjson"
    path.write_text(json.dumps(json.loads(example)) + "\n")
    assert site.tlsrpt("submit", str(path)) == "1 submitted\n"
    assert site.counted("example.net", 1) == (0, 1)


def test_python_asks_for_several_domains_over_one_connection(site: Site) -> None:
    """Answers are in order, each with its level and the hosts that a policy names."""
    done = site.run("ask.py", site.policy, "unknown.example", SECURE, "[mail.example]")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "unknown.example none\nsecure.example secure *.secure.example\n[mail.example] none\n"


ASKED = [(SECURE, "OK secure match=.secure.example servername=hostname\n"), ("unknown.example", "NOTFOUND \n")]


@pytest.mark.parametrize(("domain", "answer"), ASKED, ids=[row[0] for row in ASKED])
def test_c_asks_in_the_words_of_postfix(site: Site, domain: str, answer: str) -> None:
    """One netstring there, one back."""
    compile_(site.folder / "ask.c")
    done = site.run("ask.c", site.policy, domain)
    assert (done.returncode, done.stdout, done.stderr) == (0, answer, "")


@pytest.mark.parametrize("name", ["ask.py", "ask.c"])
def test_asking_nobody_fails(site: Site, name: str) -> None:
    """A program that gets no answer says so, and does not take it for permission."""
    if name.endswith(".c"):
        compile_(site.folder / name)
    assert site.run(name, str(site.folder / "nobody.sock"), SECURE).returncode == 1


def test_the_shell_asks_by_the_command(site: Site) -> None:
    """The level of a domain."""
    done = site.run("ask.sh", site.config, SECURE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "secure\n", "")


def test_every_program_of_the_document_is_run() -> None:
    """Each block of a language has a name, and each name is in this file."""
    assert len(BLOCK.findall(DOCUMENT.read_text())) == len(EXAMPLES) == 6
    own = pathlib.Path(__file__).read_text()
    assert [name for name in EXAMPLES if f'"{name}"' not in own] == []
