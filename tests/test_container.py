"""The container files, looked at without a container engine: a linter, and that they agree with each other."""

import pathlib
import re
import subprocess
import sysconfig

import pytest
import yaml

CHECKOUT = pathlib.Path(__file__).parents[1]
DOCKER = CHECKOUT / "docker"
DOCKERFILES = sorted(DOCKER.rglob("Dockerfile"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_the_linter_has_nothing_to_say(path: pathlib.Path) -> None:
    """hadolint, with shellcheck for what RUN has."""
    linter = pathlib.Path(sysconfig.get_path("scripts")) / "hadolint"
    command: list[str | pathlib.Path] = [linter, "--config", DOCKER / ".hadolint.yaml", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_linter_finds_something(tmp_path: pathlib.Path) -> None:
    """It looks at what it is given."""
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && sudo ls $x\n")
    linter = pathlib.Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([linter, tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "DL3004" in done.stdout


def test_every_image_of_the_composition_is_built_from_a_file_that_is_there() -> None:
    """Paths, networks and volumes lead somewhere."""
    composition = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    built = {service["build"]["dockerfile"] for service in composition["services"].values() if "build" in service}
    assert {DOCKER.parent / name for name in built} == set(DOCKERFILES)
    for name, service in composition["services"].items():
        assert set(service["networks"]) <= set(composition["networks"]), name
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(composition["volumes"]), name


def test_the_container_of_tlsrpt_may_do_little() -> None:
    """Not root, nothing to write to but its volumes, no capabilities."""
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["tlsrpt"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    text = (DOCKER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["8460"]  # with a group, engines leave out the sockets'
    volumes = re.search(r"^VOLUME (\[.*\])$", text, re.MULTILINE)
    assert volumes
    mounted = {volume.split(":")[1] for volume in service["volumes"]}
    assert set(yaml.safe_load(volumes[1])) == mounted


def test_the_two_containers_agree_on_who_may_use_the_sockets() -> None:
    """The volume takes its owner from whichever container comes first."""
    made = [
        re.findall(r"install -d -m 0750 (-o \S+ -g \S+) /var/spool/postfix/run/tlsrpt", one.read_text())
        for one in DOCKERFILES
    ]
    assert sorted(filter(None, made)) == [["-o 8460 -g 8461"], ["-o tlsrpt -g mail-sockets"]]
    text = (DOCKER / "Dockerfile").read_text()
    assert "groupadd --gid 8461 mail-sockets" in text
    assert "useradd --uid 8460" in text
    assert "TLSRPT_RECORDER_SOCKET_GROUP=8461" in text


def test_what_is_sent_to_the_engine_is_what_is_copied() -> None:
    """.dockerignore lets in what COPY needs."""
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {name for line in copied for name in line.split()}
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == wanted
    assert all((CHECKOUT / name).exists() for name in wanted)
