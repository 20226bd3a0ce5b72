"""The made-up internet as a whole: what it publishes, its configuration, and a round of mail through it."""

import asyncio
import json
import stat
from pathlib import Path

import aiohttp
import pytest

from policy import tlsrpt
from sender import config, datagram, session, signature
from sender.demo import client, dns, internet, zone

# domain, what each attempt's datagram says (None: nothing is sent), whether the message arrives
STORY: list[tuple[str, list[session.ResultType | str | None], bool]] = [
    ("good.example", ["ok"], True),
    ("nopolicy.example", ["ok"], True),
    ("failover.example", [session.ResultType.CERTIFICATE_EXPIRED, "ok"], True),
    ("expired.example", [session.ResultType.CERTIFICATE_EXPIRED], False),
    ("wrongname.example", [session.ResultType.CERTIFICATE_HOST_MISMATCH], False),
    ("untrusted.example", [session.ResultType.CERTIFICATE_NOT_TRUSTED], False),
    ("plaintext.example", [session.ResultType.STARTTLS_NOT_SUPPORTED], False),
    ("nopolicyhost.example", ["ok"], True),
    ("withdrawn.example", ["ok"], True),
]


def _said(attempt: client.Attempt) -> session.ResultType | str | None:
    if attempt.datagram is None:
        return None
    (result,) = datagram.decode(attempt.datagram).results
    return result.failures[0].result_type if result.failures else "ok"


def test_every_domain_shows_its_one_thing(tmp_path: Path) -> None:
    """The recorder's reader understands each datagram, and they say what the domain is there to show."""

    async def send() -> list[tuple[str, list[session.ResultType | str | None], bool]]:
        async with internet.start(tmp_path) as world:
            seen = []
            for recipient in world.recipients:
                attempts = [attempt async for attempt in world.sender.send(recipient.domain)]
                arrived = any(world.mtas[host].mailbox.messages for host in recipient.hosts)
                seen.append((recipient.domain, [_said(attempt) for attempt in attempts], arrived))
        return seen

    assert asyncio.run(send()) == STORY


def test_records_can_be_read_and_withdrawn(tmp_path: Path) -> None:
    """Each domain has one TLSRPT record with usable destinations, until it withdraws it."""

    async def look() -> tuple[dict[str, list[str]], dict[str, int]]:
        destinations, left = {}, {}
        async with internet.start(tmp_path) as world:
            for domain in (recipient.domain for recipient in world.recipients):
                found = await dns.ask(world.nameserver, f"_smtp._tls.{domain}", zone.Txt)
                record = tlsrpt.choose([record.text for record in found if isinstance(record, zone.Txt)])
                assert record is not None
                assert not record.unusable
                destinations[domain] = [rua.scheme.value for rua in record.rua]
            world.withdraw()
            for domain in destinations:
                left[domain] = len(await dns.ask(world.nameserver, f"_smtp._tls.{domain}", zone.Txt))
        return destinations, left

    destinations, left = asyncio.run(look())
    assert destinations["good.example"] == ["mailto", "https"]
    assert [domain for domain, count in left.items() if not count] == ["withdrawn.example"]


def test_its_configuration_can_be_used(tmp_path: Path) -> None:
    """The text is a valid tlsrpt.toml whose key signs for the organization and whose paths stay in the directory."""

    async def look() -> tuple[config.Config, str, tuple[zone.Record, ...]]:
        async with internet.start(tmp_path) as world:
            key = await dns.ask(world.nameserver, "tlsrpt._domainkey.sender.example", zone.Txt)
            return config.parse(world.config_text(), {}), world.nameserver, key

    found, nameserver, key = asyncio.run(look())
    identity = config.identity(found)
    assert (identity.domain, identity.contact) == ("sender.example", "tls-reports@sender.example")
    assert (found.dns.nameservers, found.https.allow_private) == ((nameserver,), True)
    signer = signature.Signer.load(found.mail.dkim_key, found.mail.dkim_selector, identity.domain)
    assert key == (zone.Txt(signature.dns_record(signer)),)
    places = (found.recorder.socket, found.recorder.journal, found.store.url, found.policy.cache, *found.policy.listen)
    assert all(str(tmp_path) in place for place in places)


def test_the_key_is_private(tmp_path: Path) -> None:
    """Only the owner may read the DKIM key."""

    async def look() -> int:
        async with internet.start(tmp_path) as world:
            return stat.S_IMODE(world.dkim_file.stat().st_mode)

    assert asyncio.run(look()) == 0o600


def test_https_receivers_are_reached_by_their_names(tmp_path: Path) -> None:
    """The certificate of the HTTPS receiver is for the hosts in the records, under the CA in the file."""

    async def post() -> list[tuple[str, str]]:
        async with internet.start(tmp_path) as world:
            trust = world.authority.client_context()
            url = f"https://127.0.0.1:{world.https.port}/tlsrpt"
            async with aiohttp.ClientSession() as web:
                for host in ("reports.good.example", "reports.untrusted.example"):
                    assert await dns.ask(world.nameserver, host, zone.A) == (zone.A("127.0.0.1"),)
                    async with web.post(url, headers={"Host": host}, ssl=trust, server_hostname=host) as response:
                        assert response.status == 201
            return [(request.host, request.path) for request in world.https.requests]

    assert asyncio.run(post()) == [("reports.good.example", "/tlsrpt"), ("reports.untrusted.example", "/tlsrpt")]


def test_another_world_can_be_made(tmp_path: Path) -> None:
    """The domains are the caller's choice."""
    recipients = (internet.Recipient("only.example", sts=False, rua=(internet.MailTo("a@elsewhere.example"),)),)

    async def send() -> list[str]:
        async with internet.start(tmp_path, recipients) as world:
            attempts = [attempt async for attempt in world.sender.send("only.example")]
            return [json.loads(attempt.datagram)["pr"] for attempt in attempts if attempt.datagram]

    assert asyncio.run(send()) == ["v=TLSRPTv1; rua=mailto:a@elsewhere.example"]


def test_a_world_that_cannot_be_started_leaves_nothing_behind(tmp_path: Path) -> None:
    """An error while starting ends what was started already."""

    async def fail() -> int:
        with pytest.raises(FileNotFoundError):
            async with internet.start(tmp_path / "missing"):
                pass
        return len(asyncio.all_tasks())

    assert asyncio.run(fail()) == 1
