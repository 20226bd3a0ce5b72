"""The command line as a whole: help, wrong usage, configuration mistakes, failures, pipes, completion."""

import importlib.metadata
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer.main

from sender.cli import app

Command = Callable[..., subprocess.CompletedProcess[str]]

CONTRACT = [
    "serve",
    "submit",
    "follow",
    "pending",
    "show",
    "report",
    "history",
    "retry",
    "cancel",
    "suppress",
    "policy",
    "check",
    "init",
    "demo",
    "manual",
]

COMMANDS = typer.main.get_command(app.app).commands  # type: ignore[attr-defined] # it is a group


def assert_one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command ended with a code and one line on standard error only; return the line."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("tlsrpt")
    assert "Traceback" not in line
    return line


def test_the_version_is_the_distributions(tlsrpt: Command) -> None:
    """``--version``."""
    done = tlsrpt("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tlsrpt {importlib.metadata.version('tlsrpt')}\n", "")


def test_no_command_shows_the_help(tlsrpt: Command) -> None:
    """Help on standard output; on standard error that something is missing, because a script would want to know."""
    done = tlsrpt()
    assert done.returncode == 2
    assert done.stdout.rstrip() == tlsrpt("--help").stdout.rstrip()
    assert done.stderr == "tlsrpt: no command was given (tlsrpt --help tells more)\n"


def test_the_help_of_the_program_names_every_command(tlsrpt: Command) -> None:
    """In 80 columns, under the name of the command whatever started it."""
    done = tlsrpt("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: tlsrpt [OPTIONS] COMMAND" in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ")} >= set(CONTRACT)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Exit codes: 0 done, 1 something failed, 2 wrong usage or configuration." in done.stdout


def test_the_commands_are_those_of_the_contract() -> None:
    """None is missing, none is undocumented."""
    assert list(COMMANDS) == CONTRACT


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_option_says_what_it_does(tlsrpt: Command, name: str) -> None:
    """A new command or option without a help text fails here."""
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
    done = tlsrpt(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: tlsrpt {name} " in done.stdout
    assert " ".join(command.help.split(".")[0].split()) in " ".join(done.stdout.split())
    for parameter in command.params:
        assert (parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]) in done.stdout


WRONG = [
    ("unknown command", ["nosuch"], "tlsrpt: No such command 'nosuch'"),
    ("unknown option", ["pending", "--bogus"], "tlsrpt pending: No such option: --bogus"),
    ("option without a value", ["pending", "--config"], "'--config' requires an argument"),
    ("flag with a value", ["pending", "--json=3"], "'--json' does not take a value"),
    ("too many arguments", ["pending", "a.example", "b.example"], "(b.example)"),
    ("bad domain", ["pending", "not a\ndomain"], "'not a\\ndomain'"),
    ("no domain", ["show"], "tlsrpt show: Missing argument 'DOMAIN'"),
    ("bad day", ["show", "a.example", "--day", "2026-02-30"], "'2026-02-30' is no day: give YYYY-MM-DD, today or"),
    ("bad revision", ["show", "a.example", "--revision", "0"], "'--revision'"),
    ("two forms at once", ["show", "a.example", "--json", "--mail"], "--json and --mail exclude each other"),
    ("bad domain of a report", ["report", "--domain", "-"], "'--domain': not a domain name: '-'"),
    ("bad role", ["serve", "postman"], "'postman' is not one of 'recorder', 'policy', 'reporter', 'follower'"),
    ("no id", ["retry"], "tlsrpt retry: Missing argument 'ID'"),
]


@pytest.mark.parametrize(("arguments", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_usage_is_told_in_one_line(tlsrpt: Command, arguments: list[str], text: str) -> None:
    """Exit code 2, what is wrong, and where help is; nothing on standard output."""
    line = assert_one_line(tlsrpt(*arguments), 2)
    assert text in line
    assert "--help tells more)" in line
    assert "Value error" not in line


READING = {  # each command that reads the configuration, and whether it needs to know whose reports they are
    "serve": (["serve"], True),
    "serve policy": (["serve", "policy"], False),
    "serve reporter": (["serve", "reporter"], True),
    "submit": (["submit"], False),
    "follow": (["follow", "x", "--once"], False),
    "pending": (["pending"], False),
    "check": (["check"], True),
    "suppress": (["suppress"], False),
    "show": (["show", "a.example"], True),
    "report": (["report"], True),
    "report --dry-run": (["report", "--dry-run"], True),
    "history": (["history"], False),
    "retry": (["retry", "x"], False),
    "cancel": (["cancel", "x"], False),
    "policy": (["policy", "a.example"], False),
}


def test_every_command_that_reads_the_configuration_is_tested() -> None:
    """The table knows each command with ``--config``."""
    reading = {name for name, command in COMMANDS.items() if any(one.name == "config" for one in command.params)}
    assert reading == {arguments[0] for arguments, _ in READING.values()} | {"init"}  # which writes it


@pytest.mark.parametrize("arguments", [row[0] for row in READING.values()], ids=list(READING))
def test_a_configuration_that_is_not_there_is_told(
    tlsrpt: Command, tmp_path: pathlib.Path, arguments: list[str]
) -> None:
    """The option wins over the variable; the line names the file and the cure."""
    line = assert_one_line(tlsrpt(*arguments, "--config", "gone.toml"), 2)
    assert line.startswith("tlsrpt: gone.toml: no such file")
    assert "--config" in line


@pytest.mark.parametrize("arguments", [row[0] for row in READING.values()], ids=list(READING))
def test_an_unknown_key_is_told(tlsrpt: Command, tmp_path: pathlib.Path, arguments: list[str]) -> None:
    """The line names the file (told by the variable), the key, and the keys there are."""
    (tmp_path / "wrong.toml").write_text("[report]\nsettel = 300\n")
    line = assert_one_line(tlsrpt(*arguments, TLSRPT_CONFIG="wrong.toml"), 2)
    assert line.startswith("tlsrpt: wrong.toml: report.settel: unknown key: ")
    assert "settle" in line


@pytest.mark.parametrize("arguments", [row[0] for row in READING.values() if row[1]], ids=str)
def test_a_missing_organization_is_told(tlsrpt: Command, tmp_path: pathlib.Path, arguments: list[str]) -> None:
    """Reports without a sender are refused before anything is done."""
    line = assert_one_line(tlsrpt(*arguments, TLSRPT_ORGANIZATION_DOMAIN=""), 2)
    assert line == 'tlsrpt: organization.domain = "": set it to the domain that reports come from'
    assert not (tmp_path / "tlsrpt.sock").exists()


MISTAKES = [
    ("not there", {"TLSRPT_CONFIG": "gone.toml"}, "gone.toml: no such file"),
    ("not TOML", {"TLSRPT_CONFIG": "not.toml"}, "not.toml: not TOML"),
    ("a folder", {"TLSRPT_CONFIG": "."}, "cannot be read"),
    (
        "wrong type",
        {"TLSRPT_REPORT_SPREAD": "soon"},
        "TLSRPT_REPORT_SPREAD: report.spread = 'soon': give a whole number",
    ),
    ("store", {"TLSRPT_STORE_URL": "mysql://u:secret@h/d"}, 'store.url = "mysql://u:***@h/d": not supported'),
    ("relay", {"TLSRPT_MAIL_RELAY": "localhost"}, 'mail.relay = "localhost": write smtp://'),
    ("nameserver", {"TLSRPT_DNS_NAMESERVERS": "dns"}, 'dns.nameservers: "dns": give an IP address'),
    ("trust anchors", {"TLSRPT_HTTPS_CA_FILE": "ca.pem"}, 'https.ca_file = "ca.pem": cannot be read'),
    (
        "DKIM key",
        {"TLSRPT_MAIL_DKIM_KEY": "key", "TLSRPT_MAIL_DKIM_SELECTOR": "s"},
        "mail.dkim_key: key: cannot be read",
    ),
]


@pytest.mark.parametrize(("environment", "text"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_mistakes_in_the_configuration_are_told_in_one_line(
    tlsrpt: Command, tmp_path: pathlib.Path, environment: dict[str, str], text: str
) -> None:
    """Exit code 2, with key, value and cure; also before any role starts."""
    (tmp_path / "not.toml").write_text("[report\n")
    for command in ("report", "serve"):
        assert text in assert_one_line(tlsrpt(command, **environment), 2)


POLICY_MISTAKES = [
    ("listen", {"TLSRPT_POLICY_LISTEN": "localhost:8461"}, 'policy.listen: "localhost:8461": give "unix:PATH" or'),
    ("no listen", {"TLSRPT_POLICY_LISTEN": ""}, "policy.listen is empty: give at least one address"),
    ("mode", {"TLSRPT_POLICY_SOCKET_MODE": "rw"}, 'policy.socket_mode = "rw": give three octal digits'),
    ("group", {"TLSRPT_POLICY_SOCKET_GROUP": "nobodies"}, "policy.socket_group: there is no group 'nobodies'"),
    ("nameserver", {"TLSRPT_DNS_NAMESERVERS": "dns"}, 'dns.nameservers: "dns": give an IP address'),
    ("trust anchors", {"TLSRPT_HTTPS_CA_FILE": "ca.pem"}, 'https.ca_file = "ca.pem": cannot be read'),
]


@pytest.mark.parametrize(
    ("environment", "text"), [row[1:] for row in POLICY_MISTAKES], ids=[row[0] for row in POLICY_MISTAKES]
)
def test_mistakes_in_the_configuration_of_the_policy_socket_are_told_before_it_starts(
    tlsrpt: Command, environment: dict[str, str], text: str
) -> None:
    """A host may run this role alone: whose reports they are does not matter then."""
    alone = {"TLSRPT_ORGANIZATION_DOMAIN": "", "TLSRPT_RECORDER_SOCKET": ""}
    assert text in assert_one_line(tlsrpt("serve", "policy", **alone, **environment), 2)


def test_a_recorder_needs_a_socket(tlsrpt: Command) -> None:
    """Only a host without the recorder may leave it empty."""
    line = assert_one_line(tlsrpt("serve", "recorder", TLSRPT_RECORDER_SOCKET=""), 2)
    assert 'recorder.socket = "": give the recorder a path to listen on' in line


def test_a_group_that_does_not_exist_is_told_before_the_recorder_starts(tlsrpt: Command) -> None:
    """Rather than in the log, over and over."""
    line = assert_one_line(tlsrpt("serve", "recorder", TLSRPT_RECORDER_SOCKET_GROUP="nobodies"), 2)
    assert "recorder.socket_group: there is no group 'nobodies'" in line


STORE = ["pending", "show", "report", "report --dry-run", "history", "retry", "cancel"]


@pytest.mark.parametrize("name", STORE)
def test_a_store_that_is_none_is_a_failure(tlsrpt: Command, tmp_path: pathlib.Path, name: str) -> None:
    """Exit code 1, and the line names the file."""
    (tmp_path / "tlsrpt.db").write_text("This is a letter, not a database.\n" * 100)
    line = assert_one_line(tlsrpt(*READING[name][0]), 1)
    assert line == f"tlsrpt: sqlite:///{tmp_path}/tlsrpt.db: file is not a database"


FAILURES = [
    ("store in a folder that cannot be made", ["pending"], {"TLSRPT_STORE_URL": "sqlite:////proc/x/db"}, "/proc/x:"),
    ("store that is a folder", ["history"], {"TLSRPT_STORE_URL": "sqlite:////proc"}, "unable to open database file"),
    ("submit without a recorder", ["submit"], {}, "no such socket: is `tlsrpt serve recorder` running"),
    ("submit of no file", ["submit", "gone.ndjson"], {}, "gone.ndjson"),
    ("retry of an unknown id", ["retry", "x@y"], {}, "no report has the id x@y: pending and history show the ids"),
    ("cancel of an unknown id", ["cancel", "[red]"], {}, "no report has the id [red]: pending and history"),
    ("show of an unknown domain", ["show", "a.example"], {}, "nothing is known of a.example"),
    ("show of another day", ["show", "a.example", "--day", "2026-01-02"], {}, "a.example on 2026-01-02"),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "text"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES]
)
def test_failures_are_told_in_one_line(
    tlsrpt: Command, arguments: list[str], environment: dict[str, str], text: str
) -> None:
    """Exit code 1."""
    assert text in assert_one_line(tlsrpt(*arguments, **environment), 1)


PIPED = [
    "tlsrpt --help | true",
    "tlsrpt pending | true",
    "tlsrpt pending --json | true",
    "tlsrpt pending --json | head -1",
]


def test_a_reader_that_has_seen_enough_is_no_error(
    tlsrpt: Command, tmp_path: pathlib.Path, add: Callable[..., None], yesterday: object
) -> None:
    """It reads nothing, or one line of more than a pipe holds."""
    add(yesterday, *(f"a-domain-number-{number}.example" for number in range(1000)))
    environment = {"TLSRPT_CONFIG": str(tmp_path / "tlsrpt.toml")}
    assert len(tlsrpt("pending", "--json").stdout) > 1 << 16
    for command in PIPED:
        shell = ["bash", "-c", f'tlsrpt() {{ "{sys.executable}" -m sender "$@"; }}; {command}']
        done = subprocess.run(shell, check=True, capture_output=True, text=True, env=environment, timeout=60)
        assert len(done.stdout.splitlines()) == command.endswith("head -1")
        assert done.stderr == ""


@pytest.mark.parametrize("command", ["--version", "--help", "pending", "pending --json"])
def test_a_full_disk_is_told(tlsrpt: Command, tmp_path: pathlib.Path, command: str) -> None:
    """Output that cannot be written is a failure, not a traceback."""
    with pathlib.Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sender", *command.split()],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"TLSRPT_CONFIG": str(tmp_path / "tlsrpt.toml")},
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "tlsrpt: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("command", ["--version", "pending", "pending --json"])
def test_closed_output_is_no_error(tlsrpt: Command, tmp_path: pathlib.Path, command: str) -> None:
    """As in a cron job that ends with ``>&-``: only the exit code is wanted."""
    shell = ["sh", "-c", f'"{sys.executable}" -m sender {command} >&-']
    environment = {"TLSRPT_CONFIG": str(tmp_path / "tlsrpt.toml")}
    done = subprocess.run(shell, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


COMPLETIONS = [
    ("tlsrpt p", "1", ["pending", "policy"]),
    ("tlsrpt re", "1", ["report", "retry"]),
    ("tlsrpt report --d", "2", ["--day", "--domain", "--dry-run"]),
    ("tlsrpt serve re", "2", ["recorder", "reporter"]),
]


@pytest.mark.parametrize(("words", "place", "expected"), COMPLETIONS)
def test_the_shell_completes(tlsrpt: Command, words: str, place: str, expected: list[str]) -> None:
    """Commands, options and roles, as bash asks for them."""
    done = tlsrpt(_TLSRPT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == expected


def test_the_completion_of_a_shell_can_be_shown(tlsrpt: Command) -> None:
    """``--show-completion`` prints what goes into the shell's start file."""
    done = tlsrpt("--show-completion", "bash")
    assert done.returncode == 0
    assert "_TLSRPT_COMPLETE=complete_bash" in done.stdout
    assert done.stdout.rstrip().endswith(" tlsrpt")
