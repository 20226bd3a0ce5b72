"""The first configuration: its text, the DKIM key, and what is to be told to the DNS and to Postfix.

A conductor for ``tlsrpt init``. Nothing that is there is overwritten unless that is asked for; a key never is.
"""

import dataclasses
import grp
import json
import os
import pathlib
import shutil

from sender import config, signature

GROUP = "tlsrpt"
"""That the service runs with (conf/systemd); where there is one, it may read both files."""

SELECTOR = "tlsrpt"

CONFIG_MODE = 0o640

SHARED_MODE, OWN_MODE = 0o640, 0o600
"""Of the key: for the service's group where there is one, or for the owner alone: his group may be everybody's."""

_TEMPLATE = """\
# tlsrpt: what has no default, and what is not usual. conf/tlsrpt.toml of the distribution shows every option.

[organization]
domain = {domain}
contact = {contact}

[recorder]
socket_group = {group}

[mail]
relay = {relay}
{dkim}"""


class ExistsError(Exception):
    """A file is there already; the text names it and the cure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What has no default."""

    domain: str
    """That reports come from."""
    contact: str
    """Address at the domain."""
    relay: str
    """As ``mail.relay``."""
    group: str
    """Of the recorder's socket; empty: the process's own."""


def text(answers: Answers, key: pathlib.Path | None) -> str:
    """Return the configuration file.

    Args:
        answers: what has no default.
        key: the DKIM key; ``None``: the relay signs.

    Raises:
        config.ConfigError: an answer cannot be used.
    """
    signs = "" if key is None else f"dkim_selector = {_quoted(SELECTOR)}\ndkim_key = {_quoted(str(key))}\n"
    written = _TEMPLATE.format(
        domain=_quoted(answers.domain),
        contact=_quoted(answers.contact),
        group=_quoted(answers.group),
        relay=_quoted(answers.relay),
        dkim=signs,
    )
    config.identity(config.parse(written, {}))
    return written


def _quoted(text: str) -> str:
    """Return a string as TOML has it: as JSON, but for DEL, which no answer has."""
    return json.dumps(text, ensure_ascii=False)


def refuse_another(path: pathlib.Path) -> None:
    """Find out whether there is a configuration file.

    Raises:
        ExistsError: there is.
    """
    if path.exists():
        raise ExistsError(f"{path} is there already: remove it, or say --force to write it anew")


def write(path: pathlib.Path, content: str) -> None:
    """Write the configuration file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    _create(draft, content.encode())
    _hand_over(draft)
    draft.chmod(CONFIG_MODE)
    draft.replace(path)


def make_key(path: pathlib.Path, algorithm: signature.Algorithm) -> bool:
    """Make a DKIM key where there is none; whether it was made.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    _create(draft, signature.generate(algorithm))
    draft.chmod(SHARED_MODE if _hand_over(draft) else OWN_MODE)
    draft.replace(path)
    return True


def _create(path: pathlib.Path, content: bytes) -> None:
    """Create a file that nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123 - with a mode
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _hand_over(path: pathlib.Path) -> bool:
    """Give a file to the group of the service, if there is one and we may; whether it was."""
    if os.geteuid() != 0 or all(entry.gr_name != GROUP for entry in grp.getgrall()):
        return False
    shutil.chown(path, group=GROUP)
    return True
