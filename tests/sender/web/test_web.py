"""The page over real HTTP: its numbers are the store's, strangers' texts do nothing, and not everybody may look."""

import base64
import contextlib
import datetime as dt
import html
import http.client
import json
import pathlib
import re
import socket
import time
from collections.abc import Iterator
from urllib import parse

import pytest

from sender import report
from sender.store import engine, overviews, reports
from sender.web import access
from tests import website

TOKEN = "a-token-that-nobody-guesses"

PAGES = (
    "/",
    "/domains",
    "/domains?page=2",
    "/domains/d0.example",
    "/pending",
    "/sent",
    f"/reports/{parse.quote(website.REPORT_ID, safe='')}",
)


class Site:
    """A served page, asked as a browser would."""

    def __init__(self, port: int, store: engine.Store) -> None:
        self.port, self.store = port, store

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()

    def page(self, path: str) -> str:
        """Return a page that is there."""
        status, _, body = self.get(path)
        assert status == 200, body
        return body


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose store has something of everything."""
    with website.filled(tmp_path_factory.mktemp("site")) as (port, store):
        yield Site(port, store)


def figure(page: str, name: str) -> str:
    """Return a figure of the first page."""
    found = re.search(rf'<dd id="{name}"[^>]*>([^<]*)<', page)
    assert found, page
    return found[1]


def test_the_figures_of_today_are_those_of_the_counts(site: Site) -> None:
    """Sums over all domain-days, as SQL has them, and not only the sums that are kept for the page."""
    page = site.page("/")
    with site.store.read() as connection:
        rows = overviews.domains(connection, dt.datetime.now(dt.UTC).date(), 1000)
        backlog = overviews.backlog(connection, dt.datetime.now(dt.UTC).date())
    assert figure(page, "sessions") == f"{sum(row.successful + row.failed for row in rows):,}"
    assert figure(page, "failed") == f"{sum(row.failed for row in rows):,}" == str(website.FAILING + 1)
    assert figure(page, "waiting") == f"{backlog.waiting:,}"
    assert figure(page, "due") == "1"
    assert "starttls-not-supported" in page
    assert "angry@x.example gets no reports: asked for it, until" in page


def test_domains_with_failures_come_first(site: Site) -> None:
    """The one with most failures is the first; two pages have every domain once."""
    first, second = site.page("/domains"), site.page("/domains?page=2")
    names = [re.findall(r'<th scope="row"><a [^>]*>([^<]*)<', page) for page in (first, second)]
    assert names[0][0] == "d7.example"
    assert {*names[0][: website.FAILING]} == {f"d{index}.example" for index in range(website.FAILING)}
    assert sorted([*names[0], *names[1]]) == sorted(f"d{index}.example" for index in range(150))
    assert site.get("/domains?page=3")[0] == 404


def test_a_domain_has_its_failures_by_host_and_reason(site: Site) -> None:
    """What the report would have, and every day."""
    page = site.page("/domains/d7.example")
    row = re.search(r'<td class="n bad">2</td>\s*<th scope="row">(\S+)</th>\s*<td>mx\.d7\.example \[198', page)
    assert row, page
    days = page[page.index('id="days"') :]
    assert days.count("<tr>") == 31
    assert 'href="/domains/d7.example?day=' in days


def test_the_form_leads_to_the_domain(site: Site) -> None:
    """As it is typed; a name that is none is told."""
    status, headers, _ = site.get("/domain?name=D7.Example.")
    assert (status, headers["location"]) == (303, "/domains/d7.example")
    assert site.get("/domain?name=no+domain")[0] == 404
    assert site.get("/domains/unknown.example")[0] == 404


def test_the_document_is_the_exact_one(site: Site) -> None:
    """Octet by octet as it was built, whatever is in its id."""
    _, headers, body = site.get(f"/reports/{parse.quote(website.REPORT_ID, safe='')}/document")
    with site.store.read() as connection:
        kept = reports.by_id(connection, [website.REPORT_ID])[website.REPORT_ID]
    assert body.encode() == report.unpack(kept.packed)
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["report-id"] == website.REPORT_ID


def test_pending_and_sent_tell_the_reasons(site: Site) -> None:
    """Why no report went out, what is due, and what a receiver answered."""
    pending, sent = site.page("/pending?domain=d1.example"), site.page("/sent")
    assert pending.count("<td>skipped</td><td>no record</td>") == 29
    assert "mailto:late@d0.example" in site.page("/pending")
    assert "250 taken" in sent
    assert "403 " in sent
    assert "mailto:late@d0.example" not in sent
    assert "Nothing was sent yet" in site.page("/sent?domain=d2.example")


@pytest.mark.parametrize("path", PAGES)
def test_strangers_texts_are_only_text(site: Site, path: str) -> None:
    """Neither elements nor what turns a line of text around; and no page asks another host."""
    page = site.page(path)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not re.search(r'(?:src|href|action)="(?!/|#main|data:,)', page)


def test_the_evil_text_is_there(site: Site) -> None:
    """As what it is: the test above looked at something."""
    assert "alert(1)" in html.unescape(site.page("/domains/d7.example"))


@pytest.mark.parametrize("path", [*PAGES, "/style.css", "/plots/sessions.svg", "/nothing"])
def test_every_answer_keeps_browsers_from_doing_more(site: Site, path: str) -> None:
    """No scripts, no frames, no guessing of types, nothing kept; the connection ends."""
    _, headers, _ = site.get(path)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "script-src" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/plots/sessions.svg", "/plots/failures.svg", "/plots/domains/d7.example"])
def test_plots_are_pictures_without_scripts(site: Site, path: str) -> None:
    """SVG that asks nobody."""
    _, headers, body = site.get(path)
    assert headers["content-type"].startswith("image/svg+xml")
    assert "<script" not in body
    assert not re.search(r'(?:href|src)="(?!#)', body)
    assert body.count("<rect") > 30


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    """Only reading."""
    assert site.get("/", method)[0] == 405


def test_another_sites_name_gets_nothing(site: Site) -> None:
    """A name that somebody made lead to loopback: that page would be theirs to read."""
    for host in ("127.0.0.1:8460", "localhost", "[::1]:8460"):
        assert site.get("/", Host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8460", "localhost.evil.example"):
        assert site.get("/", Host=host)[0] == 403


@pytest.mark.parametrize("path", ["/domains?page=0", "/domains?page=x", "/domains?day=x", "/reports/x", "/domains/-"])
def test_nonsense_is_told(site: Site, path: str) -> None:
    """With a page, not a traceback."""
    status, _, body = site.get(path)
    assert status == 404
    assert "<h1>404</h1>" in body


def test_too_many_connections_are_not_kept(site: Site) -> None:
    """Who opens hundreds and says nothing does not keep others out for ever."""
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(200)]
    try:
        ended = 0
        deadline = time.monotonic() + 20
        while ended < 100 and time.monotonic() < deadline:
            ended = sum(_has_ended(one) for one in idle)
        assert ended >= 100
    finally:
        for one in idle:
            one.close()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert site.get("/style.css")[0] == 200
            return
    pytest.fail("the site did not come back")


def _has_ended(sock: socket.socket) -> bool:
    sock.settimeout(0.001)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_with_a_token_only_who_knows_it_may_look(tmp_path: pathlib.Path) -> None:
    """As password of a browser or as a Bearer token, by any name of the host."""
    port = website.free_port()
    path = website.configuration(tmp_path, port, f'token = "{TOKEN}"')
    store = engine.open_store(f"sqlite:///{tmp_path}/tlsrpt.db")
    with website.served(path):
        site = Site(port, store)
        status, headers, _ = site.get("/")
        assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
        assert site.get("/metrics")[0] == 401
        basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        for authorization in (f"Basic {basic}", f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            assert site.get("/", Authorization=authorization, Host="mail.example.com")[0] == 200
        for authorization in ("Basic !", f"Basic {basic[:-4]}", f"Bearer {TOKEN}x", TOKEN, "Bearer", "Basic bWU6w7w="):
            assert site.get("/", Authorization=authorization)[0] == 401
    store.close()


def test_a_store_that_is_away_is_told(tmp_path: pathlib.Path) -> None:
    """With a page that says so, and no other harm."""
    port = website.free_port()
    path = website.configuration(tmp_path, port)
    (tmp_path / "tlsrpt.db").mkdir()
    with website.served(path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 503
        assert "The store cannot be used" in answer.read().decode()
        connection.close()


LISTENING: list[tuple[str, str, str]] = [
    ("inet:127.0.0.1:8460", "", ""),
    ("inet:[::1]:8460", "", ""),
    ("inet:localhost:8460", "", ""),
    ("unix:/run/tlsrpt/web.sock", "", ""),
    ("inet:0.0.0.0:8460", TOKEN, ""),
    ("inet:0.0.0.0:8460", "", "web.listen"),
    ("inet:mail.example.com:8460", "", "web.listen"),
    ("inet:127.0.0.1:8460", "short", "web.token"),
    ("inet:127.0.0.1:8460", "ü" * 20, "web.token"),
    ("127.0.0.1:8460", "", "web.listen"),
]


@pytest.mark.parametrize(("listen", "token", "named"), LISTENING)
def test_beyond_loopback_a_token_is_needed(listen: str, token: str, named: str) -> None:
    """What is wrong is named with its key."""
    with pytest.raises(ValueError, match=named) if named else contextlib.nullcontext():
        access.check(listen, token)


def test_a_hundred_thousand_domains_answer_in_time(tmp_path: pathlib.Path) -> None:
    """Each page within 0.3 s; the first look opens the store, and is not counted."""
    port = website.free_port()
    path = website.configuration(tmp_path, port)
    store = engine.open_store(f"sqlite:///{tmp_path}/tlsrpt.db")
    website.fill(store, dt.datetime.now(dt.UTC), domains=100_000, days=2)
    with website.served(path):
        site = Site(port, store)
        site.page("/")
        for page in (*PAGES, "/domains?page=10", "/plots/sessions.svg", "/plots/domains/d7.example"):
            took = []
            for _ in range(3):
                began = time.monotonic()
                site.page(page)
                took.append(time.monotonic() - began)
            assert min(took) < 0.3, (page, took)
    store.close()
