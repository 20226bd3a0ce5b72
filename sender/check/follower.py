"""The log that sessions are made of where Postfix does not report by itself: that it is there, and may be read."""

import grp
import os
import pathlib
import shutil
from collections.abc import Iterator

from sender import config, following
from sender.check import findings

PROGRAM = "journalctl"


def look(settings: config.Config) -> Iterator[findings.Finding]:
    """Look at the log; what the systemd journal shows to this user is not looked at."""
    id_, log = "follower-log", settings.follower.log
    cure = 'set follower.log to the file that Postfix logs to (postconf maillog_file), or to "journal"'
    if log == following.JOURNAL:
        if shutil.which(PROGRAM) is None:
            yield findings.error(id_, f"there is no {PROGRAM} to read the journal with", cure)
        else:
            yield findings.ok(id_, "the log is the systemd journal")
        return
    path = pathlib.Path(log)
    try:
        group = path.stat().st_gid
    except OSError as error:
        yield findings.error(id_, f"{log}: {error.strerror}", cure)
        return
    if not os.access(path, os.R_OK):
        cure = f"usermod -a -G {_name(group)} USER, with the user that tlsrpt runs as, or run tlsrpt check as that user"
        yield findings.error(id_, f"this user may not read {log}", cure)
    else:
        yield findings.ok(id_, f"{log} can be read")


def _name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
