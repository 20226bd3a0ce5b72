"""The configuration: every mistake is one line that names the key, the value and the cure."""

import pathlib
import tomllib

import msgspec
import pytest

from sender import config

REJECTED = [
    ("unknown section", "[foo]", {}, "foo: unknown key"),
    ("unknown key", "[report]\nsetle = 1", {}, "report.setle: unknown key: remove it or use one of settle,"),
    ("wrong type", '[report]\nsettle = "x"', {}, "report.settle = 'x': give a whole number"),
    ("no boolean", "[https]\nverify = 1", {}, "https.verify = 1: give true or false"),
    ("within a list", "[dns]\nnameservers = [1]", {}, "dns.nameservers[0] = 1: give text in quotes"),
    ("no table", "dns = 1", {}, "dns = 1: give a table of keys"),
    ("out of range", "[report]\nkeep_days = 0", {}, "report.keep_days = 0: give a number from 1 to 3650"),
    ("socket mode", '[recorder]\nsocket_mode = "rw"', {}, 'recorder.socket_mode = "rw": give three octal digits'),
    ("half of dkim", '[mail]\ndkim_key = "/k"', {}, 'mail.dkim_selector = ""'),
    ("no TOML", "x", {}, "not TOML"),
    ("variable of a wrong type", "", {"TLSRPT_REPORT_SETTLE": "soon"}, "TLSRPT_REPORT_SETTLE: report.settle = 'soon'"),
    ("variable of no key", "", {"TLSRPT_REPORT_SETLE": "1"}, "TLSRPT_REPORT_SETLE: report.setle: unknown key"),
]


@pytest.mark.parametrize(
    ("text", "environment", "expected"), [row[1:] for row in REJECTED], ids=[r[0] for r in REJECTED]
)
def test_a_mistake_is_one_line_that_names_it(text: str, environment: dict[str, str], expected: str) -> None:
    """Nothing wrong gets through, and the text says where it is."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, environment, source="tlsrpt.toml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_overrides_the_file() -> None:
    """TLSRPT_SECTION_KEY has the last word; variables that name no section are not ours."""
    environment = {
        "TLSRPT_REPORT_SETTLE": "7",
        "TLSRPT_DNS_NAMESERVERS": "127.0.0.1:53, [::1]:53",
        "TLSRPT_HTTPS_VERIFY": "false",
        "TLSRPT_CONFIG": "/somewhere",
    }
    settings = config.parse("[report]\nsettle = 5\nspread = 6", environment)
    assert (settings.report.settle, settings.report.spread) == (7, 6)
    assert settings.dns.nameservers == ("127.0.0.1:53", "[::1]:53")
    assert settings.https.verify is False


def test_the_example_shows_every_option_with_its_default() -> None:
    """conf/tlsrpt.toml, with its options uncommented, is exactly the defaults, and misses none."""
    path = pathlib.Path(__file__).parents[2] / "conf" / "tlsrpt.toml"
    lines = path.read_text().splitlines()
    assert all(line.startswith(("#", "[")) or not line for line in lines), "options are commented out"
    options = "\n".join(line.removeprefix("#") for line in lines if line.startswith("[") or _is_option(line))
    tables = tomllib.loads(options)
    defaults = msgspec.json.decode(msgspec.json.encode(config.Config()))
    assert defaults.pop("rule") == []
    assert tables == defaults
    assert config.parse(path.read_text(), {}) == config.Config()


def _is_option(line: str) -> bool:
    return line.startswith("#") and not line.startswith("# ") and "=" in line


IDENTITIES = [
    ("no domain", {}, 'organization.domain = ""'),
    ("no contact", {"domain": "a.example"}, 'organization.contact = ""'),
    ("bad domain", {"domain": "a..example"}, "not a domain name"),
    ("contact elsewhere", {"domain": "a.example", "contact": "x@b.example"}, "give an address at a.example"),
    ("contact no address", {"domain": "a.example", "contact": "a b@a.example"}, "give an address at a.example"),
]


@pytest.mark.parametrize(("keys", "expected"), [row[1:] for row in IDENTITIES], ids=[row[0] for row in IDENTITIES])
def test_reports_need_an_identity_of_one_domain(keys: dict[str, str], expected: str) -> None:
    """From, contact-info and submitter share one domain, or receivers refuse the report (RFC 8460 section 5.3)."""
    with pytest.raises(config.ConfigError) as caught:
        config.identity(config.Config(organization=config.Organization(**keys)))
    assert expected in str(caught.value)


def test_an_identity_fills_in_what_was_left_out() -> None:
    """The name is the domain and the sender has a usual local part; a U-label becomes an A-label."""
    organization = config.Organization(domain="Bücher.example", contact="tls@bücher.example")
    assert config.identity(config.Config(organization=organization)) == config.Identity(
        name="xn--bcher-kva.example",
        domain="xn--bcher-kva.example",
        contact="tls@xn--bcher-kva.example",
        sender="noreply-tls-reports@xn--bcher-kva.example",
    )


def test_a_file_that_is_missing_is_an_error_only_when_it_was_named(tmp_path: pathlib.Path) -> None:
    """The usual path may be absent; then the defaults hold."""
    with pytest.raises(config.ConfigError, match="no such file"):
        config.load(tmp_path / "none.toml", {})
    assert config.load(tmp_path / "none.toml", {}, required=False) == config.Config()
