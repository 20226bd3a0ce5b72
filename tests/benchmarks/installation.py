"""The configuration that benchmarks run with: all files in one folder."""

import pathlib

from sender import config


def configured(scratch: pathlib.Path, more: str = "") -> config.Config:
    """Return it, with more TOML at its end."""
    return config.parse(text(scratch, more), {})


def text(scratch: pathlib.Path, more: str = "") -> str:
    """Return it as TOML."""
    return f"""
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[recorder]
socket = "{scratch}/tlsrpt.sock"
journal = "{scratch}/journal"
[store]
url = "sqlite:///{scratch}/tlsrpt.db"
[policy]
listen = []
{more}
"""
