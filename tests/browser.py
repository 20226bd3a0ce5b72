"""Debian's chromium without a screen, that asks nobody but the page."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import pytest
from playwright import sync_api

CHROMIUM = pathlib.Path("/usr/bin/chromium")

ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def started() -> Iterator[sync_api.Browser]:
    """Start it; skip where there is none, and fail in CI."""
    if not CHROMIUM.exists():
        assert "CI" not in os.environ, "CI installs chromium"
        pytest.skip("Debian's chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
