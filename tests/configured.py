"""An installation in a folder: everything that a command needs to know, and nobody to ask."""

import pathlib


def text(folder: pathlib.Path) -> str:
    """Return a configuration whose paths are in a folder."""
    return f"""
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[recorder]
socket = "{folder}/tlsrpt.sock"
journal = "{folder}/journal"
[store]
url = "sqlite:///{folder}/tlsrpt.db"
[policy]
listen = ["unix:{folder}/policy.sock"]
cache = "{folder}/policy.db"
[dns]
nameservers = ["127.0.0.1:1"]
"""
