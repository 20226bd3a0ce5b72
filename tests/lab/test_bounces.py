"""Report mails that come back through a real Postfix, with the lines of docs/bounces.md."""

import json
import re

from sender.demo import mailbox
from tests import website
from tests.lab import postfix, product, roots, sites
from tests.lab.conftest import Laboratory
from tests.lab.test_postfix import SNIPPET

DOCUMENT = product.CHECKOUT / "docs" / "bounces.md"

LISTEN = "127.0.0.1:8462"
"""As in the document."""


def lines() -> tuple[dict[str, str], str]:
    """Return what the document adds to main.cf, and the transport map, for the organization of the laboratory."""
    found = re.search(r"^# main\.cf\n(.*?)\n\n# (/\S+)\n(.*?)\n```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    settings = dict(line.split(" = ", 1) for line in found[1].splitlines())
    assert settings["transport_maps"] == f"regexp:{found[2]}"
    assert found[3].endswith(f"lmtp:inet:{LISTEN}")
    return settings, found[3].replace(r"example\.com", sites.ORGANIZATION.replace(".", r"\."))


def test_a_refused_report_mail_is_a_bounce_in_the_history(laboratory: Laboratory) -> None:
    """The receiver's 550 comes from Postfix as a notification, by LMTP, and is in the history a moment later."""
    folder = laboratory.folder / "bounces"
    folder.mkdir()
    root = roots.copy(laboratory.root, folder / "root")
    queue = postfix.prepare(root)
    settings, transport = lines()
    (root / "etc/postfix/tlsrpt-transport").write_text(f"{transport}\n")
    (site,) = (one for one in laboratory.sites if one.scenario.id == "plain")
    laboratory.world.forget()
    refused = mailbox.Reply(550, "5.1.1 nobody of that name")
    laboratory.world.mail.mailbox.program(site.mailbox, refused)
    more = {"bounces": {"listen": f"inet:{LISTEN}"}}
    with (
        laboratory.serving(folder, queue, roles=("recorder", "policy", "reporter"), more=more) as tlsrpt,
        postfix.running(root, SNIPPET, laboratory.authority.ca_pem, settings={**postfix.SENDING, **settings}) as server,
    ):
        tlsrpt.wait(lambda: any(row["event"] == "bounces are taken" for row in tlsrpt.events()))
        (folder / "session").write_bytes(website.datagram(site.domain) + b"\n")
        assert tlsrpt.run("submit", str(folder / "session")).returncode == 0
        tlsrpt.wait(lambda: site.domain in tlsrpt.run("pending").stdout)
        assert tlsrpt.run("report", "--day", "today", "--now").returncode == 0
        server.wait(lambda: any("bounce" in row["event"] for row in tlsrpt.events() if "fate" in row))
        (row,) = json.loads(tlsrpt.run("history", "--json").stdout)["deliveries"]
        notified = [one for one in server.deliveries() if one.recipient.startswith("noreply-tls-reports+")]
    assert row["state"] == "delivered"
    assert row["bounced"] is not None
    assert row["bounce"].startswith("5.1.1 550 5.1.1 nobody of that name")
    assert [(one.status, LISTEN in one.relay.replace("[127.0.0.1]", "")) for one in notified] == [("sent", True)]
