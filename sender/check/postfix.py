"""Postfix's main.cf: the settings with which events flow and policies hold.

:func:`ask` runs ``postconf``; :func:`judge` is pure.
"""

import pathlib
import re
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
)

REPORTS = (3, 10)
"""The version from which Postfix reports by itself."""

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
    try:
        done = subprocess.run(  # noqa: S603 - nothing of a stranger's is in it
            [program, *NAMES], capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{program} takes too long") from error
    if not done.stdout:
        raise OSError(f"{program}: {' '.join(done.stderr.split())[:200]}")
    pairs = (line.partition("=") for line in done.stdout[:MAX_OUTPUT].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


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
    if reports:
        yield from _events(values, queue, settings)
    else:
        yield from _follower(values, settings)
    yield _policies(values, queue, settings, NEW if reports else OLD)
    yield from _security(values)


def _set(name: str, value: str) -> str:
    return f"postconf -e '{name} = {value}' && postfix reload"


def _events(values: Values, queue: pathlib.Path, settings: config.Config) -> Iterator[findings.Finding]:
    id_ = "postfix-events"
    name = values.get("smtp_tlsrpt_socket_name", "")
    wanted = settings.recorder.socket
    relative = wanted.removeprefix(f"{queue}/")
    if values.get("smtp_tlsrpt_enable") != "yes":
        yield findings.error(id_, "Postfix reports no TLS sessions", _set("smtp_tlsrpt_enable", "yes"))
    elif not name or queue / name != pathlib.Path(wanted):
        found = f"Postfix reports to {queue / name if name else 'no socket'}, the recorder listens at {wanted}"
        yield findings.error(id_, found, _set("smtp_tlsrpt_socket_name", relative))
    else:
        yield findings.ok(id_, f"Postfix {values['mail_version']} reports its TLS sessions to {wanted}")
    if wanted and queue not in pathlib.Path(wanted).parents:
        cure = f'set recorder.socket = "{queue}/run/tlsrpt/tlsrpt.sock"'
        yield findings.warning("chroot", f"{wanted} is outside of {queue}, where a chrooted smtp cannot reach it", cure)
    if values.get("smtp_tls_session_cache_database"):
        cure = _set("smtp_tls_session_cache_database", "")
        yield findings.warning("postfix-session-cache", "Postfix does not report TLS sessions that it resumes", cure)


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
    wanted = [f"socketmap:{_as_postfix_has_it(text, queue)}:{name}" for text in settings.policy.listen]
    cure = _set("smtp_tls_policy_maps", wanted[0])
    found = re.split(r"[,\s]+", maps)
    if any(one in found for one in wanted):
        return findings.ok(id_, "Postfix asks the policy socket")
    other = NEW if name == OLD else OLD
    if any(one.removesuffix(name) + other in found for one in wanted):
        why = "refuses its answers" if name == OLD else "cannot report the policy with a session"
        return findings.error(id_, f"Postfix asks the policy socket for {other}, and {why}", cure)
    return findings.error(id_, f"Postfix does not ask the policy socket: smtp_tls_policy_maps = {maps}", cure)


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
