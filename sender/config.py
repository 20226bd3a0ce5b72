"""The configuration file: one TOML file, every key with a type and a default, nothing else allowed.

``TLSRPT_SECTION_KEY`` in the environment overrides a key. ``conf/tlsrpt.toml`` shows every option;
a test compares it with this module. Reading the file is the only I/O here.
"""

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from policy import names
from policy.settings import Dns, Https, Policy
from sender import rules

DEFAULT_PATH = Path("/etc/tlsrpt/tlsrpt.toml")

ENVIRONMENT_PREFIX = "TLSRPT_"


class ConfigError(Exception):
    """The configuration cannot be used; the text is one line that names key, value and cure."""


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Turn what the policy room says of its sections (a ``ValueError`` with key, value and cure) into our error.

    Raises:
        ConfigError: something in them cannot be used.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


class Organization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[organization]``: who reports."""

    name: str = ""
    """``organization-name``; empty: the domain."""
    domain: str = ""
    """Domain of From, contact, TLS-Report-Submitter and DKIM; needed for reports."""
    contact: str = ""
    """``contact-info``, an address at the domain; needed for reports."""


class Recorder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[recorder]``: where session results come in."""

    socket: str = "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"
    """Empty: there is no recorder, and what the policy socket finds wrong is told to nobody."""
    socket_mode: str = "0660"
    """Octal."""
    socket_group: str = ""
    """Group name or number; empty: the group the process runs with."""
    journal: str = "/var/lib/tlsrpt/journal"
    exim_socket: str = ""
    """Where Exim's events come in (``conf/exim``), with the same mode and group; empty: there is no Exim."""
    host: str = ""
    """What this host is called where hosts are listed; empty: the name the machine has."""


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[store]``: where the counts are."""

    url: str = "sqlite:////var/lib/tlsrpt/tlsrpt.db"
    """``sqlite:////path``, or ``postgresql://user@host/database`` for several hosts."""
    flush: int = 1
    """Seconds between two looks of the tally at the journal: how fresh counts are, and how often they are written."""


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[report]``: the daily job."""

    settle: int = 300
    """Seconds after midnight UTC before a day closes."""
    wait_for_hosts: int = 14400
    """Seconds after midnight UTC that a day waits for hosts that were alive on it and are not tallied past it."""
    spread: int = 14400
    """Deliveries are spread over so many seconds (RFC 8460 section 4.1)."""
    retry_for: int = 86400
    """Seconds after the first attempt during which a delivery is tried again (RFC 8460 section 5.5)."""
    success_only: bool = True
    """Report also when nothing failed."""
    keep_days: int = 30
    """Days that counts, reports and deliveries are kept."""


class Follower(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[follower]``: sessions out of the log of Postfix before 3.10."""

    log: str = ""
    """Path of the log, or ``journal``; empty: the role does not run."""
    state: str = ""
    """Folder of the bookmarks; empty: ``follower`` beside ``recorder.journal``."""
    relayhosts: tuple[str, ...] = ()
    """Names or addresses of hosts that take mail for other domains."""


class Mail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[mail]``: how reports leave by mail."""

    relay: str = "smtp://127.0.0.1:25"
    """``smtp://`` or ``smtps://``, with ``user:password@``; ``?starttls=`` never, opportunistic or require."""
    sender: str = ""
    """From and envelope sender; empty: ``noreply-tls-reports@`` the organization's domain."""
    dkim_selector: str = ""
    dkim_key: str = ""
    """Path of a private key, RSA or Ed25519, in PEM; empty: the relay signs."""


class Bounces(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[bounces]``: report mails that come back."""

    listen: str = ""
    """``inet:HOST:PORT`` or ``unix:PATH``, SMTP or LMTP; empty: all reports have ``mail.sender`` as envelope sender."""


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[web]``: the page of the reporter, and the metrics of a host."""

    listen: str = ""
    """``inet:HOST:PORT``; empty: no page, and no metrics."""
    token: str = ""
    """Who asks must know it, as the password of HTTP Basic or as a Bearer token; needed beyond loopback."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    organization: Organization = Organization()
    recorder: Recorder = Recorder()
    store: Store = Store()
    policy: Policy = Policy()
    dns: Dns = Dns()
    follower: Follower = Follower()
    report: Report = Report()
    mail: Mail = Mail()
    bounces: Bounces = Bounces()
    https: Https = Https()
    web: Web = Web()
    rule: tuple[rules.Rule, ...] = ()


def load(path: Path, environment: Mapping[str, str] = os.environ, *, required: bool = True) -> Config:
    """Read the configuration file and the environment.

    Args:
        path: the TOML file.
        environment: where ``TLSRPT_SECTION_KEY`` is looked for.
        required: whether a missing file is an error; without it the defaults hold.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be used.
    """
    return parse(_read(path, required=required), environment, source=str(path))


def parse(text: str, environment: Mapping[str, str], source: str = "configuration") -> Config:
    """Check a configuration; ``source`` names it in errors.

    Raises:
        ConfigError: something in it cannot be used.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    config = _convert(tables, source, strict=True)
    for variable, section, key, value in _overrides(environment):
        only = _convert({section: {key: _from_text(section, key, value)}}, variable, strict=False)
        changed = msgspec.structs.replace(getattr(config, section), **{key: getattr(getattr(only, section), key)})
        config = msgspec.structs.replace(config, **{section: changed})
    _check(config, source)
    return config


def _read(path: Path, *, required: bool) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not required:
            return ""
        cure = "write it (conf/tlsrpt.toml shows every option) or name another with --config"
        raise ConfigError(f"{path}: no such file: {cure}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


_RULE = "rule"

_SECTIONS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type for field in msgspec.structs.fields(Config) if field.name != _RULE
}


def _overrides(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (variable, section, key, value) of each variable that names a section; others are not ours."""
    for variable, value in sorted(environment.items()):
        section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if variable.startswith(ENVIRONMENT_PREFIX) and section in _SECTIONS and key:
            yield variable, section, key, value


def _from_text(section: str, key: str, text: str) -> object:
    fields = {field.name: field.type for field in msgspec.structs.fields(_SECTIONS[section])}
    if fields.get(key) == tuple[str, ...]:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


_AT = re.compile(r"(?P<what>.*) - at `\$(?P<path>[^`]*)`\Z")


def _convert(tables: dict[str, object], source: str, *, strict: bool) -> Config:
    try:
        return msgspec.convert(tables, Config, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), tables)}") from error


def _explain(message: str, tables: dict[str, object]) -> str:
    """Turn msgspec's message into one that names key, value and cure."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"].lstrip(".")) if match else (message, "")
    unknown = re.match(r"Object contains unknown field `(.*)`", what)
    if unknown:
        key = f"{path}.{unknown[1]}" if path else unknown[1]
        kind = rules.Rule if path.startswith(f"{_RULE}[") else _SECTIONS.get(path)
        known = (*_SECTIONS, _RULE) if kind is None else kind.__struct_fields__
        return f"{key}: unknown key: remove it or use one of {', '.join(known)}"
    value: object = tables
    for part in re.split(r"[.\[\]]+", path):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
    shown = "..." if path.startswith(_SECRET) else repr(value)
    return f"{path} = {shown}: {_cure(what)}"


_SECRET = ("mail.relay", "store.url", "web.token")
"""Keys whose values may have a password in them."""


_WANTED = {
    "int": "a whole number",
    "bool": "true or false",
    "str": "text in quotes",
    "array": "a list of texts",
    "object": "a table of keys",
}


def _cure(what: str) -> str:
    wanted = re.match(r"Expected `(\w+)`", what)
    return f"give {_WANTED[wanted[1]]}" if wanted and wanted[1] in _WANTED else f"{what[0].lower()}{what[1:]}"


_RANGES = {
    ("report", "settle"): (0, 86_400),
    ("report", "wait_for_hosts"): (0, 86_400),
    ("report", "spread"): (0, 86_400),
    ("report", "retry_for"): (0, 30 * 86_400),
    ("report", "keep_days"): (1, 3_650),
    ("store", "flush"): (1, 3_600),
}


def _check(config: Config, source: str) -> None:
    """Check what types cannot say; a report later than a day after its day, say, is of no use to anybody."""
    for (section, key), (least, most) in _RANGES.items():
        value = getattr(getattr(config, section), key)
        if not least <= value <= most:
            raise ConfigError(f"{source}: {section}.{key} = {value}: give a number from {least} to {most}")
    for section, mode in (("recorder", config.recorder.socket_mode), ("policy", config.policy.socket_mode)):
        if not re.fullmatch(r"0?[0-7]{3}", mode):
            raise ConfigError(
                f'{source}: {section}.socket_mode = "{mode}": give three octal digits, for example "0660"'
            )
    for number, rule in enumerate(config.rule):
        try:
            rules.check(number, rule)
        except rules.InvalidRuleError as error:
            raise ConfigError(f"{source}: {error}") from error
    if bool(config.mail.dkim_key) != bool(config.mail.dkim_selector):
        missing, given = ("dkim_selector", "dkim_key") if config.mail.dkim_key else ("dkim_key", "dkim_selector")
        raise ConfigError(f'{source}: mail.{missing} = "": set it, too, or leave mail.{given} empty')


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a report says it is from, complete and checked (RFC 8460 sections 4.4 and 5.3)."""

    name: str
    domain: str
    """The submitter, as A-labels in lower case."""
    contact: str
    sender: str


def identity(config: Config) -> Identity:
    """Return whom reports come from.

    Raises:
        ConfigError: the organization is not told, or its addresses are not at its domain.
    """
    if not config.organization.domain:
        raise ConfigError('organization.domain = "": set it to the domain that reports come from')
    try:
        domain = names.a_label(config.organization.domain)
    except names.InvalidNameError as error:
        raise ConfigError(f'organization.domain = "{config.organization.domain}": {error}') from error
    if not config.organization.contact:
        raise ConfigError(f'organization.contact = "": set it to an address at {domain} that a person reads')
    return Identity(
        name=config.organization.name or domain,
        domain=domain,
        contact=_address("organization.contact", config.organization.contact, domain),
        sender=_address("mail.sender", config.mail.sender or f"noreply-tls-reports@{domain}", domain),
    )


def _address(key: str, address: str, domain: str) -> str:
    local, _, at = address.rpartition("@")
    try:
        matches = names.a_label(at) == domain
    except names.InvalidNameError:
        matches = False
    if not matches or not names.is_local_part(local):
        raise ConfigError(f'{key} = "{address}": give an address at {domain}, the organization.domain')
    return f"{local}@{domain}"
