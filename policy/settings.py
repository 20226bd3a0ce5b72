"""The sections of the configuration file that belong to this room, with their defaults.

Pure values; ``sender.config`` reads the file and puts the sections of both rooms together.
"""

import msgspec


class Dns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[dns]``: whom to ask."""

    nameservers: tuple[str, ...] = ()
    """``"127.0.0.1:53"``, ``"[::1]:53"`` or without a port; empty: those of /etc/resolv.conf."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[policy]``: the policy socket."""

    listen: tuple[str, ...] = ("unix:/var/spool/postfix/run/tlsrpt/policy.sock",)
    """``unix:PATH`` and ``inet:HOST:PORT``."""
    socket_mode: str = "0666"
    """Octal. What is answered is public, and Postfix asks as a user of its own; directories can say no."""
    socket_group: str = ""
    """Group name or number; empty: the group the process runs with."""
    cache: str = "/var/lib/tlsrpt/policy.db"
    """SQLite file of the policies that were fetched; empty: none, they are forgotten at a restart."""


class Https(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[https]``: how to connect to policy hosts and report receivers."""

    ca_file: str = ""
    """PEM file of trust anchors used besides those of the system; empty: none."""
    verify: bool = True
    """Check certificates of report receivers (RFC 8460 section 3 allows not to)."""
    allow_private: bool = False
    """Connect to private, loopback and link-local addresses, too."""
