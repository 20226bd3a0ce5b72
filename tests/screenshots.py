"""The pictures of the page in docs/images: ``python -m tests.screenshots``."""

import datetime as dt
import pathlib
import random
import tempfile
from typing import Any

from sender.store import closings, engine
from tests import browser, stored, website

IMAGES = pathlib.Path(__file__).parent.parent / "docs" / "images"

PICTURES: list[tuple[str, str, Any, int, int]] = [
    ("overview", "/", "light", 1000, 900),
    ("overview-dark", "/", "dark", 1000, 900),
    ("overview-narrow", "/", "light", 390, 844),
    ("domain", "/domains/example.net", "light", 1000, 900),
    ("pending", "/pending", "light", 1000, 500),
]

_CODES = (201, 202, 203, 204)


def _fill(store: engine.Store, now: dt.datetime) -> None:
    draw = random.Random(8460)
    names = ["example.net", "example.org", *(f"customer{number}.example" for number in range(40))]
    for ago in range(30):
        lines = []
        for name in names:
            lines += [website.datagram(name)] * draw.randrange(40, 120)
            if draw.random() < 0.08 or name == "example.net":
                lines += [website.datagram(name, failed=draw.choice(_CODES))] * draw.randrange(1, 12)
        stored.count(store, now.date() - dt.timedelta(days=ago), lines)
    website.fill(store, now, domains=1, days=1)
    with store.write() as connection:
        closings.close_open(connection, now.date() - dt.timedelta(days=1))


def main() -> None:
    """Draw them all."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        port = website.free_port()
        path = website.configuration(pathlib.Path(folder), port)
        store = engine.open_store(f"sqlite:///{folder}/tlsrpt.db")
        _fill(store, dt.datetime.now(dt.UTC))
        with website.served(path), browser.started() as chromium:
            for name, page, scheme, width, height in PICTURES:
                context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                tab = context.new_page()
                tab.goto(f"http://127.0.0.1:{port}{page}")
                tab.screenshot(path=IMAGES / f"{name}.png")
                context.close()
        store.close()


if __name__ == "__main__":
    main()
