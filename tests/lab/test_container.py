"""docker/Dockerfile, step by step in roots of Debian 13, and what it makes, run as the compose file says.

No container engine is needed. What an engine does to run the image is done by hand: the root read-only, volumes
mounted, the image's user, no capabilities. compose.yaml is read by Docker Compose itself, Debian 13's.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from tests import website
from tests.lab import conftest, machine, namespace, product, roots

DOCKER = product.CHECKOUT / "docker"

ONLY_FOR_ENGINES = {"STOPSIGNAL", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
"""Instructions that make nothing, but say how to run it; the tests below do as they say."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

STARTED_WITHIN = 30.0
"""Seconds."""


class Image:
    """What a Dockerfile makes."""

    def __init__(self, base: pathlib.Path, wheels: pathlib.Path, folder: pathlib.Path) -> None:
        self._base, self._wheels, self._folder = base, wheels, folder
        self._stages: dict[str, pathlib.Path] = {}
        self._at, self._environment = "/", dict[str, str]()
        self.root = folder
        self.user = "0:0"
        self.said: dict[str, str] = {}
        """The last of each instruction that is only for engines."""

    def build(self, dockerfile: pathlib.Path) -> None:
        """Do every instruction; one that is not known here fails."""
        text = re.sub(r"\\\n", " ", dockerfile.read_text())
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        for line in lines:
            word, _, rest = line.partition(" ")
            if word in ONLY_FOR_ENGINES:
                self.said[word] = rest
            else:
                getattr(self, f"_do_{word.lower()}")(rest)

    def _do_from(self, rest: str) -> None:
        base, _, name = rest.partition(" AS ")
        assert base == f"debian:{machine.SUITE}-slim"
        self.root = roots.copy(self._base, self._folder / (name or "image"))
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        if name:  # what pip installs from, as an engine would from its index
            shutil.copytree(self._wheels, self.root / "wheels")
        self._stages[name] = self.root
        self._at = "/"

    def _do_run(self, rest: str) -> None:
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        with machine.running(self.root, {**self._environment, **pip}) as inside, namespace.left():
            inside.run(rest, folder=self._at)

    def _do_copy(self, rest: str) -> None:
        words = rest.split()
        stage = self._stages[words.pop(0).removeprefix("--from=")] if words[0].startswith("--from=") else None
        *sources, target = words
        for source in sources:
            found = (stage / source.lstrip("/")) if stage else product.CHECKOUT / source
            to = self.root / os.path.normpath(f"{self._at}/{target}").lstrip("/")
            to = to / found.name if target.endswith("/") else to
            to.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(found, to)

    def _do_workdir(self, rest: str) -> None:
        self._at = rest
        (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _do_env(self, rest: str) -> None:
        self._environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))

    def _do_user(self, rest: str) -> None:
        self.user = rest

    @contextlib.contextmanager
    def running(self, arguments: list[str], volumes: dict[str, pathlib.Path]) -> Iterator[subprocess.Popen[bytes]]:
        """Run the image as an engine does: root read-only, volumes, its user, no capabilities."""
        with subprocess.Popen(
            self._command([*json.loads(self.said["ENTRYPOINT"]), *arguments], volumes),
            env={**self._plain(), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def run(self, command: list[str], volumes: dict[str, pathlib.Path]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in a container of the image."""
        return subprocess.run(
            self._command(command, volumes),
            env={**self._plain(), **self._environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _identity(self) -> str:
        """Return who an engine makes of USER: with a group none but that, without those of the image's /etc/group."""
        user, _, group = self.user.partition(":")
        if group:
            return f"--reuid={user} --regid={group} --clear-groups"
        rows = [line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines()]
        ((name, group),) = [(row[0], row[3]) for row in rows if row[2] == user]
        members = [line.split(":") for line in (self.root / "etc/group").read_text().splitlines()]
        more = [row[2] for row in members if name in row[3].split(",")]
        return f"--reuid={user} --regid={group} --groups={','.join([group, *more])}"

    def _plain(self) -> dict[str, str]:
        return {"PATH": PATH, "LC_ALL": "C.UTF-8"}

    def _command(self, command: list[str], volumes: dict[str, pathlib.Path]) -> list[str]:
        root = shlex.quote(str(self.root))
        mounts = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}"]
        mounts += [f"mount --bind {shlex.quote(str(source))} {root}{target}" for target, source in volumes.items()]
        mounts += [f"mount -t tmpfs tmpfs {root}/tmp", f"mount -t proc proc {root}/proc"]
        least = f"setpriv {self._identity()} --bounding-set=-all --no-new-privs"
        inside = f"exec chroot {root} {least} {shlex.join(command)}"
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", "\n".join([*mounts, inside])]


@pytest.fixture(scope="module")
def image(debian: pathlib.Path, wheels: pathlib.Path, scratch: pathlib.Path) -> Image:
    """The image of tlsrpt."""
    folder = scratch / "image"
    folder.mkdir()
    made = Image(debian, wheels, folder)
    made.build(DOCKER / "Dockerfile")
    return made


@pytest.fixture
def volumes(image: Image, tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Volumes as an engine makes them: with what the image has there, and its owners."""
    made: dict[str, pathlib.Path] = {}
    for number, target in enumerate(json.loads(image.said["VOLUME"])):
        made[target] = roots.copy(image.root / target.lstrip("/"), tmp_path / f"volume{number}")
    return made


def test_the_image_is_small_and_has_no_tools_to_build_with(image: Image) -> None:
    """Beside Debian and Python there is the program and what it needs."""
    used = subprocess.run(["du", "-sm", image.root], check=True, capture_output=True, text=True).stdout.split()[0]
    base = subprocess.run(["du", "-sm", image._base], check=True, capture_output=True, text=True).stdout.split()[0]
    assert int(used) - int(base) < 250
    assert not (image.root / "opt/tlsrpt/bin/pip").exists()
    assert not (image.root / "src").exists()
    assert not list((image.root / "var/lib/apt/lists").glob("*Packages*"))


def test_it_runs_read_only_as_nobody_special(image: Image, volumes: dict[str, pathlib.Path]) -> None:
    """From ``init`` to a counted session; healthy while it runs, and not before or after."""
    health = json.loads(re.sub(r".*CMD ", "", image.said["HEALTHCHECK"]))
    relay = ["--relay", "smtp://127.0.0.1:9"]
    init = ["init", "--domain", "example.com", "--contact", "postmaster@example.com", *relay]
    done = image.run([*json.loads(image.said["ENTRYPOINT"]), *init], volumes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tlsrpt._domainkey.example.com" in done.stdout
    assert image.run(health, volumes).returncode == 1
    with image.running(json.loads(image.said["CMD"]), volumes) as process:
        log = _until(process, b"event=ready")
        assert b"read-only" not in log.lower()
        assert image.run(health, volumes).returncode == 0
        sessions = volumes["/var/lib/tlsrpt"] / "sessions"
        sessions.write_bytes(website.datagram("example.net", failed=201) + b"\n")
        done = image.run(["tlsrpt", "submit", "/var/lib/tlsrpt/sessions"], volumes)
        assert done.returncode == 0, done.stderr
        done = image.run(["tlsrpt", "pending", "--json"], volumes)
        (row,) = json.loads(done.stdout)["domain_days"]
        assert (row["domain"], row["failed"]) == ("example.net", 1)
        assert image.run(["touch", "/opt/tlsrpt/x"], volumes).returncode == 1
        _inside(process).send_signal(signal.SIGTERM)
        _until(process, b"page and metrics" if b"page and metrics are served" in log else b"recorder stopped")
    assert image.run(health, volumes).returncode == 1


class _inside:  # noqa: N801 - reads as a function
    """The first process in the container."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self._pid = int(children[0])

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)


def _until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    log, deadline = b"", time.monotonic() + STARTED_WITHIN
    while text not in log:
        assert time.monotonic() < deadline, log.decode()
        log += process.stdout.read() or b""
        time.sleep(0.05)
    return log


@pytest.mark.parametrize("profile", [[], ["--profile", "postgresql"]])
def test_docker_compose_takes_the_file(scratch: pathlib.Path, profile: list[str]) -> None:
    """Docker Compose of Debian 13 reads it, with and without PostgreSQL, and sees what is meant."""
    root = conftest.unpacked("trixie", ("docker-compose",))
    copied = scratch / f"compose{len(profile)}"
    roots.copy(root, copied)
    shutil.copytree(DOCKER, copied / "docker")
    (program,) = [one for one in copied.rglob("docker-compose") if one.is_file() and os.access(one, os.X_OK)][:1]
    command: list[str | pathlib.Path] = ["chroot", copied, f"/{program.relative_to(copied)}", *profile]
    command += ["-f", "/docker/compose.yaml", "config"]
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"postfix", "resolver", "tlsrpt", *(["postgresql"] if profile else [])}
    assert services["tlsrpt"]["environment"]["TLSRPT_STORE_URL"].startswith("sqlite:")
