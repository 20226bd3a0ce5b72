"""The page in a real browser: every view, narrow and wide, light and dark, without JavaScript, and for everybody."""

import datetime as dt
from collections.abc import Iterator
from typing import Any
from urllib import parse

import pytest
from axe_playwright_python import sync_playwright as axe
from playwright import sync_api

from sender.store import engine, overviews
from tests import browser, website

VIEWS = {
    "/": "so far",
    "/domains": "Domains on",
    "/domains/d7.example": "d7.example",
    "/pending": "Pending",
    "/sent": "Sent",
    f"/reports/{parse.quote(website.REPORT_ID, safe='')}": "Report about d0.example",
    "/nothing": "404",
}

WIDTHS = (360, 1280)


class Look:
    """A browser that looks at a site."""

    def __init__(self, chromium: sync_api.Browser, origin: str, store: engine.Store) -> None:
        self.chromium, self.origin, self.store = chromium, origin, store
        self.about: list[str] = []
        """What the page that was loaded last asked for elsewhere, or complained of."""

    def at(self, path: str, **options: Any) -> sync_api.Page:
        """Return a page that is loaded, whatever its status."""
        page = self.chromium.new_context(**options).new_page()
        about = self.about = []
        page.on("request", lambda request: about.append(request.url))
        page.on("console", lambda message: about.append(f"console: {message.text}"))
        page.goto(self.origin + path, wait_until="load")
        return page


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Look]:
    """A browser before a site whose store has something of everything."""
    with website.filled(tmp_path_factory.mktemp("site")) as (port, store), browser.started() as chromium:
        yield Look(chromium, f"http://127.0.0.1:{port}", store)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", VIEWS)
def test_every_view_can_be_read(look: Look, path: str, width: int, scheme: Any) -> None:
    """Without JavaScript: its heading, its pictures, nothing cut off at the side, in the colours that are asked for."""
    size: Any = {"width": width, "height": 800}
    page = look.at(path, viewport=size, color_scheme=scheme, java_script_enabled=False)
    assert VIEWS[path] in page.locator("h1").inner_text()
    for picture in page.locator("img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    about = [one for one in look.about if not one.startswith((look.origin, "data:"))]
    assert about == [] or (path == "/nothing" and len(about) == 1)
    page.context.close()


def test_the_numbers_are_the_stores(look: Look) -> None:
    """As a person reads them, and the links lead where they say."""
    today = dt.datetime.now(dt.UTC).date()
    with look.store.read() as connection:
        rows = overviews.domains(connection, today, 1000)
    page = look.at("/", java_script_enabled=False)
    assert page.locator("#sessions").inner_text() == f"{sum(row.failed + row.successful for row in rows):,}"
    assert page.locator("#failed").inner_text() == f"{sum(row.failed for row in rows):,}"
    page.get_by_role("link", name=rows[0].domain, exact=True).click()
    cells = page.locator("#days tbody tr").first.locator("td").all_inner_texts()
    assert cells == [f"{rows[0].failed:,}", f"{rows[0].successful:,}"]
    page.get_by_label("Domain", exact=True).fill("D2.example")
    page.get_by_role("button", name="Show").click()
    assert page.locator("h1").inner_text() == "d2.example"
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", VIEWS)
def test_axe_finds_no_violation(look: Look, path: str, scheme: Any) -> None:
    """WCAG's rules and best practices, as axe-core knows them, contrast in both colours included."""
    page = look.at(path, color_scheme=scheme, viewport={"width": 390, "height": 800})
    for closed in page.locator("details").all():
        closed.evaluate("details => details.open = true")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert results.response["passes"]
    page.context.close()
