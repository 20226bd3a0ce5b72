"""Postfix's settings with which events flow and policies hold: main.cf, and what master.cf has of the smtp service.

:func:`ask` runs ``postconf``; :func:`judge` is pure. Known limit: other services that send (relay, transports of your
own) may have settings of their own in master.cf, which are not looked at.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from policy import endpoints
from sender import config
from sender.check import findings

PROGRAM = "postconf"
PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin"
"""Where it is besides PATH, which seldom has sbin for others than root."""

TIMEOUT = 5.0
"""Seconds for postconf, which reads a file."""

MAX_OUTPUT = 65_536
"""Letters of postconf's output that are read."""

NAMES = (
    "mail_version",
    "queue_directory",
    "smtp_tlsrpt_enable",
    "smtp_tlsrpt_socket_name",
    "smtp_tls_policy_maps",
    "smtp_tls_security_level",
    "smtp_dns_support_level",
    "smtp_host_lookup",
    "smtp_tls_CAfile",
    "smtp_tls_CApath",
    "tls_append_default_CA",
    "smtp_tls_session_cache_database",
    "smtp_tls_loglevel",
    "compatibility_level",
)

SERVICE = "smtp/unix"
"""Under this name :func:`ask` has the line of master.cf."""

_CHROOT = 4
"""Which field of that line tells whether the service runs in a chroot (master(5))."""

_OPTION = re.compile(r"-o\s+(?:\{\s*(\w+)\s*=\s*([^{}]*?)\s*\}|(\w+)=(\S*))")

REPORTS = (3, 10)
"""The version from which Postfix reports by itself."""

REPORTS_RESUMED = (3, 11)
"""The version from which it can report sessions that it resumes."""

NEW, OLD = "QUERYwithTLSRPT", "QUERY"

Values = Mapping[str, str]


def ask() -> Values | None:
    """Return what is set; ``None``: there is no Postfix.

    Raises:
        OSError: it does not tell; the text says why.
    """
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=PLACES)
    if program is None:
        return None
    pairs = (line.partition("=") for line in _run(program, *NAMES).splitlines())
    values = {name.strip(): value.strip() for name, _, value in pairs}
    try:
        service = _run(program, "-M", SERVICE)
    except OSError:  # there may be no such service
        service = ""
    options = ((one[1] or one[3], one[2] or one[4] or "") for one in _OPTION.finditer(service))
    return {**values, **{name: value for name, value in options if name in NAMES}, SERVICE: " ".join(service.split())}


def _run(program: str, *arguments: str) -> str:
    """Return what postconf prints.

    Raises:
        OSError: it prints nothing; the text says why.
    """
    try:
        done = subprocess.run(  # noqa: S603 - nothing of a stranger's is in it
            [program, *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{program} takes too long") from error
    if not done.stdout:
        raise OSError(f"{program}: {' '.join(done.stderr.split())[:200] or 'it tells nothing'}")
    return done.stdout[:MAX_OUTPUT]


def look(settings: config.Config) -> Iterator[findings.Finding]:
    """Look at Postfix."""
    try:
        values = ask()
    except OSError as error:
        yield findings.unknown("postfix", str(error))
        return
    if values is None:
        yield findings.unknown("postfix", "there is no Postfix on this machine (no postconf)")
        return
    yield from judge(values, settings)


def wanted(values: Values, settings: config.Config) -> dict[str, str]:
    """Return what main.cf is to have, for the version of Postfix that is there (the newest where it is not known)."""
    queue = pathlib.Path(values.get("queue_directory", "/var/spool/postfix"))
    reports = version(values.get("mail_version", "99.0")) >= REPORTS
    events = {
        "smtp_tlsrpt_enable": "yes",
        "smtp_tlsrpt_socket_name": settings.recorder.socket.removeprefix(f"{queue}/"),
        "smtp_tls_session_cache_database": "",
    }
    maps = f"socketmap:{_as_postfix_has_it(settings.policy.listen[0], queue)}:{NEW if reports else OLD}"
    return {
        **(events if reports else {"smtp_tls_loglevel": "1"}),
        "smtp_tls_policy_maps": maps,
        "smtp_tls_security_level": "may",
        "smtp_dns_support_level": "dnssec",
        "smtp_host_lookup": "dns",
        "smtp_tls_CAfile": "/etc/ssl/certs/ca-certificates.crt",
    }


def version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version; zeros where there are none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def judge(values: Values, settings: config.Config) -> Iterator[findings.Finding]:
    """Judge what is set."""
    queue = pathlib.Path(values.get("queue_directory", "/var/spool/postfix"))
    reports = version(values.get("mail_version", "")) >= REPORTS
    if not reports:
        yield from _follower(values, settings)
    elif settings.recorder.socket:
        yield from _events(values, queue, settings)
    yield _policies(values, queue, settings, NEW if reports else OLD)
    if _chrooted(values):
        yield from _outside(queue, settings, events=reports)
    yield from _security(values)


def _set(name: str, value: str) -> str:
    return f"postconf -e {shlex.quote(f'{name} = {value}')} && postfix reload"


def _chrooted(values: Values) -> bool:
    """Tell whether smtp runs in a chroot; ``-`` is what master(5) says of it: only for compatibility's sake."""
    fields = values.get(SERVICE, "").split()
    if len(fields) <= _CHROOT:
        return True  # not known: Debian's does
    return fields[_CHROOT] == "y" or (fields[_CHROOT] == "-" and values.get("compatibility_level", "0") == "0")


def _seen(path: str, queue: pathlib.Path, values: Values) -> pathlib.Path:
    """Return where smtp finds a path: it runs in the queue directory, which may be all it sees."""
    return queue / (path.lstrip("/") if _chrooted(values) else path)


def _events(values: Values, queue: pathlib.Path, settings: config.Config) -> Iterator[findings.Finding]:
    id_ = "postfix-events"
    name = values.get("smtp_tlsrpt_socket_name", "")
    wanted = settings.recorder.socket
    relative = wanted.removeprefix(f"{queue}/")
    if values.get("smtp_tlsrpt_enable") != "yes":
        yield findings.error(id_, "Postfix reports no TLS sessions", _set("smtp_tlsrpt_enable", "yes"))
    elif not name or _seen(name, queue, values) != pathlib.Path(wanted):
        where = _seen(name, queue, values) if name else "no socket"
        found = f"Postfix reports to {where}, the recorder listens at {wanted}"
        yield findings.error(id_, found, _set("smtp_tlsrpt_socket_name", relative))
    else:
        yield findings.ok(id_, f"Postfix {values['mail_version']} reports its TLS sessions to {wanted}")
    if values.get("smtp_tls_session_cache_database"):
        yield _resumes(values)


def _resumes(values: Values) -> findings.Finding:
    id_, cure = "postfix-session-cache", _set("smtp_tls_session_cache_database", "")
    if version(values["mail_version"]) >= REPORTS_RESUMED:
        level = values.get("compatibility_level", "0")
        found = f"whether Postfix reports TLS sessions that it resumes depends on compatibility_level = {level}"
        return findings.hint(id_, found, cure)
    return findings.warning(id_, "Postfix does not report TLS sessions that it resumes", cure)


def _outside(queue: pathlib.Path, settings: config.Config, *, events: bool) -> Iterator[findings.Finding]:
    """Name the sockets that a chrooted smtp cannot reach."""
    recorder = pathlib.Path(settings.recorder.socket)
    if events and settings.recorder.socket and queue not in recorder.parents:
        cure = f'set recorder.socket = "{queue}/run/tlsrpt/tlsrpt.sock"'
        yield findings.warning(
            "chroot", f"{recorder} is outside of {queue}, where a chrooted smtp cannot reach it", cure
        )
    addresses = endpoints.parse_all(settings.policy.listen)
    paths = [one.path for one in addresses if isinstance(one, endpoints.UnixAddress)]
    if len(paths) == len(addresses) and not any(queue in path.parents for path in paths):
        cure = f'set policy.listen = ["unix:{queue}/run/tlsrpt/policy.sock"]'
        found = f"{paths[0]} is outside of {queue}, where a chrooted smtp cannot reach it"
        yield findings.warning("chroot", found, cure)


def _follower(values: Values, settings: config.Config) -> Iterator[findings.Finding]:
    id_ = "postfix-events"
    old = f"Postfix {values.get('mail_version', '')} does not report by itself"
    if not settings.follower.log:
        yield findings.error(
            id_, f"{old}, and nobody reads its log", 'set follower.log = "/var/log/mail.log" (or "journal")'
        )
    elif values.get("smtp_tls_loglevel", "0") == "0":
        yield findings.error(id_, f"{old}, and does not log TLS sessions", _set("smtp_tls_loglevel", "1"))
    else:
        yield findings.ok(id_, f"{old}; sessions are made of {settings.follower.log}")


def _policies(values: Values, queue: pathlib.Path, settings: config.Config, name: str) -> findings.Finding:
    id_ = "postfix-policies"
    maps = values.get("smtp_tls_policy_maps", "")
    listening = endpoints.parse_all(settings.policy.listen)
    entries = [one for one in re.split(r"[,\s]+", maps) if one]
    ours = [one for one in entries if _address(one, queue, values) in listening]
    if any(one.endswith(f":{name}") for one in ours):
        return findings.ok(id_, "Postfix asks the policy socket")
    right = f"socketmap:{_as_postfix_has_it(settings.policy.listen[0], queue)}:{name}"
    if not ours:
        found = f"Postfix does not ask the policy socket: smtp_tls_policy_maps = {maps}"
        return findings.error(id_, found, _set("smtp_tls_policy_maps", ", ".join([*entries, right])))
    asked = ours[0].rpartition(":")[2]
    why = "refuses its answers" if asked == NEW else "cannot report the policy with a session"
    cure = _set("smtp_tls_policy_maps", ", ".join(right if one == ours[0] else one for one in entries))
    return findings.error(id_, f"Postfix asks the policy socket for {asked}, and {why}", cure)


def _address(entry: str, queue: pathlib.Path, values: Values) -> endpoints.UnixAddress | endpoints.InetAddress | None:
    """Return what a table of smtp_tls_policy_maps leads to, as the policy role has it; ``None``: no socket."""
    where = entry.removeprefix("socketmap:").rpartition(":")[0]
    try:
        address = endpoints.parse(where)
    except ValueError:
        return None
    if isinstance(address, endpoints.UnixAddress):
        return endpoints.UnixAddress(_seen(str(address.path), queue, values))
    return address


def _as_postfix_has_it(listen: str, queue: pathlib.Path) -> str:
    """Return an address of the policy socket as a chrooted smtp names it."""
    address = endpoints.parse(listen)
    if isinstance(address, endpoints.UnixAddress):
        return f"unix:{str(address.path).removeprefix(f'{queue}/')}"
    return listen


def _security(values: Values) -> Iterator[findings.Finding]:
    level = values.get("smtp_tls_security_level", "")
    if level in {"", "none"}:
        found = "Postfix uses TLS only with domains that have a policy"
        yield findings.warning("postfix-level", found, _set("smtp_tls_security_level", "may"))
    else:
        yield findings.ok("postfix-level", f"without a policy, TLS is at level {level}")
    lookups = re.split(r"[,\s]+", values.get("smtp_host_lookup", ""))
    if values.get("smtp_dns_support_level") != "dnssec" or "dns" not in lookups:
        cure = "postconf -e 'smtp_dns_support_level = dnssec' 'smtp_host_lookup = dns' && postfix reload"
        yield findings.warning("postfix-dane", "Postfix does not ask for DNSSEC, so DANE cannot hold", cure)
    else:
        yield findings.ok("postfix-dane", "Postfix asks for DNSSEC")
    anchors = [
        values.get("smtp_tls_CAfile"),
        values.get("smtp_tls_CApath"),
        values.get("tls_append_default_CA") == "yes",
    ]
    if not any(anchors):
        cure = _set("smtp_tls_CAfile", "/etc/ssl/certs/ca-certificates.crt")
        yield findings.error(
            "postfix-anchors", "Postfix trusts no certification authority: MTA-STS defers all mail", cure
        )
    else:
        yield findings.ok("postfix-anchors", "Postfix trusts certification authorities")
