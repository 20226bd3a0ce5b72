"""What monitoring is told by the real ``tlsrpt serve``, and that the dashboard and the alerts ask for what there is."""

import asyncio
import contextlib
import datetime as dt
import http.client
import json
import os
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import parser, registry

from sender import config, datagram, metrics
from sender.demo import internet, zone
from sender.store import engine
from sender.web import exporting
from tests import stored, website
from tests.sender import test_findings

Serve = Callable[..., Any]
Sample = tuple[str, frozenset[tuple[str, str]]]

CONF = pathlib.Path(__file__).parents[3] / "conf" / "monitoring"
ADDED_BY_PROMETHEUS = {"instance", "job"}

SESSIONS, FAILED, MALFORMED, ASKED = 70, 30, 3, 5


def scrape(port: int) -> dict[Sample, float]:
    """Return all samples of ``/metrics``."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("content-type") == exporting.CONTENT_TYPE
        text = answer.read().decode()
    families = parser.text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: dict[Sample, float], name: str, **labels: str) -> float | None:
    """Return a sample."""
    return samples.get((name, frozenset(labels.items())))


def until(port: int, true: Callable[[dict[Sample, float]], bool]) -> dict[Sample, float]:
    """Scrape until something is so; roles publish once a second."""
    deadline = time.monotonic() + 30
    while not true(samples := scrape(port)):
        assert time.monotonic() < deadline, samples
        time.sleep(0.1)
    return samples


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[dict[Sample, float]]":
    """Everything happens once; what was exported at the end, beside the checks on the way."""
    from tests.sender import conftest  # noqa: PLC0415 - its fixture lives as long as one test

    folder = tmp_path_factory.mktemp("m")
    start = conftest.serve.__wrapped__(folder)  # type: ignore[attr-defined]
    yield asyncio.run(_happen(folder, next(start)))
    with contextlib.suppress(StopIteration):
        next(start)


async def _happen(folder: pathlib.Path, serve: Serve) -> dict[Sample, float]:
    async with internet.start(folder, ()) as net:
        domain = test_findings.DOMAIN
        net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tlsrpt@{domain}"))
        port = website.free_port()
        path = folder / "tlsrpt.toml"
        path.write_text(f'{net.config_text()}[web]\nlisten = "inet:127.0.0.1:{port}"\n')
        store = engine.open_store(config.load(path, {}).store.url)
        yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
        stored.count(store, yesterday, [website.datagram(domain)])
        served = serve("--config", str(path))
        await asyncio.to_thread(served.wait_for, "ready")
        return await asyncio.to_thread(_walk, net, served, port)


def _walk(net: internet.Internet, served: Any, port: int) -> dict[Sample, float]:
    for number in range(SESSIONS + FAILED):
        failed = 201 if number < FAILED else 0
        test_findings.tell(net.recorder_socket, json.loads(website.datagram("a.example", failed=failed)))
    for _ in range(MALFORMED):
        test_findings.tell(net.recorder_socket, {"dpv": "7"})
    test_findings.ask(net.policy_socket, "QUERY", ASKED)
    everything = SESSIONS + FAILED + MALFORMED
    samples = until(
        port,
        lambda now: (
            value(now, "tlsrpt_recorder_received_datagrams_total") == everything
            and value(now, "tlsrpt_tally_datagrams_total") == everything
            and value(now, "tlsrpt_policy_answers_total", outcome="none") == ASKED
            and value(now, "tlsrpt_deliveries_total", scheme="mailto", outcome="delivered") == 1
        ),
    )
    assert value(samples, "tlsrpt_role_starts_total", role="tally") == 1
    os.kill(served.pid("tally"), signal.SIGKILL)
    os.kill(served.pid("recorder"), signal.SIGKILL)
    served.wait_for("tally started", 2)
    served.wait_for("recorder started", 2)
    test_findings.tell(net.recorder_socket, json.loads(website.datagram("a.example")))
    samples = until(
        port,
        lambda now: (
            value(now, "tlsrpt_tally_datagrams_total") == everything + 1
            and value(now, "tlsrpt_recorder_received_datagrams_total") == everything + 1
            and value(now, "tlsrpt_tally_behind_bytes") == 0
        ),
    )
    assert served.end() == 0
    assert not list(pathlib.Path(os.environ.get("TMPDIR", "/tmp")).glob(f"tlsrpt-metrics-*/*{served.process.pid}*"))
    return samples


def test_counters_are_what_happened(told: dict[Sample, float]) -> None:
    """Received, counted by outcome and kind, malformed by reason, asked, reported, delivered."""
    assert value(told, "tlsrpt_tally_sessions_total", outcome="successful") == SESSIONS + 1
    assert value(told, "tlsrpt_tally_sessions_total", outcome="failed") == FAILED
    assert value(told, "tlsrpt_tally_failures_total", result_type="starttls-not-supported") == FAILED
    malformed = {labels: number for (name, labels), number in told.items() if name == _MALFORMED}
    assert list(malformed.values()) == [MALFORMED]
    assert value(told, "tlsrpt_policy_wait_seconds_count") == 1
    assert value(told, "tlsrpt_reports_total", decision="built") == 1
    assert value(told, "tlsrpt_deliveries_total", scheme="https", outcome="delivered") == 0


_MALFORMED = "tlsrpt_tally_malformed_datagrams_total"


def test_counters_survive_the_death_of_their_process(told: dict[Sample, float]) -> None:
    """What was counted before is counted on, and that it died can be seen."""
    assert value(told, "tlsrpt_role_starts_total", role="tally") == 2
    assert value(told, "tlsrpt_role_starts_total", role="reporter") == 1
    assert value(told, "tlsrpt_recorder_received_datagrams_total") == SESSIONS + FAILED + MALFORMED + 1


def test_gauges_are_of_now(told: dict[Sample, float]) -> None:
    """The journal is counted, yesterday is closed, nothing waits."""
    now = dt.datetime.now(dt.UTC)
    midnight = dt.datetime.combine(now.date(), dt.time(), dt.UTC).timestamp()
    assert value(told, "tlsrpt_store_up") == 1
    assert value(told, "tlsrpt_tally_behind_bytes") == 0
    assert value(told, "tlsrpt_last_closed_day_timestamp_seconds") == midnight
    assert value(told, "tlsrpt_oldest_open_day_timestamp_seconds") == midnight + 86_400
    assert value(told, "tlsrpt_domain_days_waiting") == 0
    assert value(told, "tlsrpt_deliveries_due", scheme="mailto") == 0
    last = value(told, "tlsrpt_recorder_last_received_timestamp_seconds")
    assert last is not None
    assert abs(last - now.timestamp()) < 120


def test_no_label_has_what_a_stranger_chooses(told: dict[Sample, float]) -> None:
    """No domain and no address: a scrape stays small, and monitoring need not know whom we write to."""
    for _, labels in told:
        for _, text in labels:
            assert "example" not in text
            assert "@" not in text


def queries() -> Iterator[tuple[str, str]]:
    """Yield where, and which query."""
    for group in yaml.safe_load((CONF / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((CONF / "grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$instance", ".*")


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_dashboard_and_alerts_ask_for_what_is_exported(told: dict[Sample, float], where: str, query: str) -> None:
    """Each query is PromQL; each metric in it is exported, and has the labels it is asked for."""
    promql_parser.parse(query)
    exported: dict[str, set[str]] = {}
    for name, labels in told:
        exported.setdefault(name, set()).update(label for label, _ in labels)
    names = set(re.findall(r"\btlsrpt_\w+", query))
    assert names or where == "TlsrptDown"
    optional = {"tlsrpt_policy_fetches_total": {"outcome"}}  # nothing was fetched here
    for name in names:
        assert name in exported or name in optional, name
    asked = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", by)}
    asked |= {label for braces in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*[=!]", braces)}
    known = set().union(*(exported.get(name, optional.get(name, set())) for name in names))
    assert asked <= known | ADDED_BY_PROMETHEUS


def test_every_metric_is_in_the_documentation(told: dict[Sample, float]) -> None:
    """And the documentation has no other."""
    text = (CONF.parents[1] / "docs" / "monitoring.md").read_text()
    documented = set(re.findall(r"^\| `(tlsrpt_\w+)`", text, re.MULTILINE))
    written = {
        f"{one.name}_total" if isinstance(one, metrics.Counter) else one.name
        for one in vars(metrics).values()
        if isinstance(one, metrics.Metric)
    }
    gauges = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in told}
    assert documented == written | gauges


def test_alerts_and_panels_name_labels_that_are_there() -> None:
    """What is filled into texts is a label of the query."""
    for group in yaml.safe_load((CONF / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            texts = " ".join(rule["annotations"].values())
            used = set(re.findall(r"\$labels\.(\w+)", texts)) - {"instance"}
            assert all(label in rule["expr"] or label in _OF_RAW.get(rule["alert"], ()) for label in used), rule[
                "alert"
            ]


_OF_RAW = {"TlsrptProcessDies": ("role",), "TlsrptJobFails": ("job_name",)}
"""Labels of alerts that do not aggregate."""


def test_nothing_is_published_where_nobody_asks() -> None:
    """A command counts nothing, and imports nothing for it."""
    metrics.count(metrics.RECEIVED)
    metrics.reach(metrics.RECEIVED, total=3)
    with metrics.publishing(lambda: pytest.fail("published")):
        pass
    assert registry.REGISTRY.get_sample_value("tlsrpt_recorder_received_datagrams_total") is None


def test_reasons_of_malformed_datagrams_are_few() -> None:
    """They are a label, so a stranger must not be able to make more of them."""
    reasons = {_reason(raw) for raw in (b"", b"{", b"[]", b'{"dpv":"2"}', b'{"dpv":"1","d":"\\u0000"}', b"\xff" * 9000)}
    assert None not in reasons
    assert all(re.fullmatch(r"[a-z0-9 _-]{3,60}", str(reason)) for reason in reasons), reasons


def _reason(raw: bytes) -> str | None:
    try:
        datagram.decode(raw)
    except datagram.MalformedError as error:
        return str(error.reason)
    return None
