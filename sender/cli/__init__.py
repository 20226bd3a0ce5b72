"""The command ``tlsrpt``: one module for each group of commands, each importing what it needs only when it runs."""

from sender.cli.app import main

__all__ = ["main"]
