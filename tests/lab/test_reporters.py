"""Twenty reporters on one database: each report is made once and delivered once, and nobody waits in a circle."""

import asyncio
import collections
import concurrent.futures
import datetime as dt
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from sender.demo import internet, zone
from sender.store import engine
from tests import postgresql, stored
from tests.lab.conftest import cannot

REPORTERS = 20
DOMAINS = 6000
"""So many that each reporter can claim some; a batch has a thousand."""

PATIENCE = 120.0


def test_twenty_reporters_share_a_day(scratch: pathlib.Path) -> None:
    """The real ``tlsrpt report --now``, twenty times at once, with real DNS and a real relay."""
    if postgresql.programs() is None:
        cannot("no PostgreSQL: apt-get install postgresql")
    folder = scratch / "reporters"
    folder.mkdir()
    domains = [f"d{number}.example" for number in range(DOMAINS)]
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)

    async def scenario(server: postgresql.Server) -> "collections.Counter[str]":
        async with internet.start(folder, ()) as net:
            for domain in domains:
                net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1;rua=mailto:tls@{domain}"))
            (folder / "tlsrpt.toml").write_text(net.config_text(server.url("postgres")))
            with concurrent.futures.ThreadPoolExecutor(REPORTERS) as pool:
                loop = asyncio.get_running_loop()
                summaries = await asyncio.gather(
                    *(loop.run_in_executor(pool, _report, folder) for _ in range(REPORTERS))
                )
            assert sum(one["reports"] for one in summaries) == DOMAINS
            assert sum(one["delivered"] for one in summaries) == DOMAINS
            assert sum(bool(one["closed"]) for one in summaries) == 1
            return collections.Counter(message.recipients[0] for message in net.mail.mailbox.messages)

    with postgresql.start() as server:
        store = engine.open_store(server.url("postgres"))
        sessions = (f'{{"d":"{domain}","policies":[{{"policy-type":9,"f":0}}]}}'.encode() for domain in domains)
        stored.count(store, yesterday, sessions)
        store.close()
        received = asyncio.run(scenario(server))
        assert received == collections.Counter(f"tls@{domain}" for domain in domains)
        assert server.run("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'") == ["0"]
        assert server.run("SELECT count(*), count(DISTINCT domain) FROM reports") == [f"{DOMAINS}|{DOMAINS}"]


def _report(folder: pathlib.Path) -> Any:
    command = [sys.executable, "-m", "sender", "report", "--now", "--json", "--config", str(folder / "tlsrpt.toml")]
    elsewhere = {**os.environ, "TLSRPT_RECORDER_JOURNAL": str(folder / "none")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=elsewhere)
    if done.returncode:
        pytest.fail(done.stderr)
    return json.loads(done.stdout)
