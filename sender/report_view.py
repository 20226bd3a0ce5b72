"""A report document as a table for people, for ``tlsrpt show`` and the demo.

Pure: the bytes of a document (RFC 8460 section 4.4) in, something that rich can print out. Made for 80 columns and
readable without colour. A report repeats what strangers said (host names, EHLO texts, policies), so every string is
shown literally: no markup, no control or direction characters, and not longer than :data:`MAX_TEXT`.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich import box, console, padding, table, text

from sender import printable, report

MAX_TEXT = 500
"""Characters shown of one string: an EHLO or policy line longer than six lines of a terminal helps nobody."""

MAX_DETAILS = 200
"""Failure details shown of one policy; the rest is counted in a last line."""

MAX_LINES = 50
"""Lines shown of one policy or MX list; a domain with more MX patterns than that is not read line by line."""

GOOD, BAD, QUIET = "green", "red", "dim"


def render(document: bytes) -> console.RenderableType:
    """Return a document as something rich can print.

    Args:
        document: UTF-8 JSON, not gzipped.

    Raises:
        report.InvalidReportError: it is not a report.
    """
    parsed = report.parse(document)
    return console.Group(_header(parsed), *(part for result in parsed.policies for part in _policy(result)))


def _header(document: report.Document) -> console.RenderableType:
    failed = sum(result.summary.total_failure_session_count for result in document.policies)
    successful = sum(result.summary.total_successful_session_count for result in document.policies)
    span = document.date_range
    rows = [
        ("Organization", _literal(document.organization_name)),
        ("Contact", _literal(document.contact_info)),
        ("Report-ID", _literal(document.report_id)),
        ("Day", _literal(_day(span.start_datetime, span.end_datetime))),
        ("Sessions", _counts(successful, failed)),
    ]
    return _pairs(rows)


def _day(start: str, end: str) -> str:
    """Return the day of a range in UTC, the range when it is not one day."""
    day, _, clock = start.partition("T")
    return f"{day} (UTC)" if (clock, end) == ("00:00:00Z", f"{day}T23:59:59Z") else f"{start} to {end}"


def _policy(result: report.PolicyResult) -> Iterator[console.RenderableType]:
    policy, summary = result.policy, result.summary
    title = text.Text.assemble(_literal(policy.policy_domain, "bold"), f" ({policy.policy_type.value})")
    yield text.Text()
    yield title
    rows = [("Sessions", _counts(summary.total_successful_session_count, summary.total_failure_session_count))]
    rows.extend((("MX", _lines(policy.mx_host)),) if policy.mx_host else ())
    rows.extend((("Policy", _lines(policy.policy_string)),) if policy.policy_string else ())
    yield padding.Padding(_pairs(rows), (0, 0, 0, 2))
    if result.failure_details:
        yield padding.Padding(_failures(result.failure_details), (1, 0, 0, 2))


def _failures(details: tuple[report.FailureDetail, ...]) -> table.Table:
    grid = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("Sessions", justify="right", no_wrap=True)
    grid.add_column("Failure", no_wrap=True)
    grid.add_column("Where and why", overflow="fold")
    for detail in details[:MAX_DETAILS]:
        count = text.Text(f"{detail.failed_session_count}", BAD)
        grid.add_row(count, text.Text(detail.result_type.value), _lines_of(_where(detail)))
    rest = sum(detail.failed_session_count for detail in details[MAX_DETAILS:])
    if rest:
        grid.add_row(text.Text(f"{rest}", BAD), f"{len(details) - MAX_DETAILS} more details", "see the document")
    return grid


def _where(detail: report.FailureDetail) -> Iterator[text.Text]:
    host, address = detail.receiving_mx_hostname, detail.receiving_ip
    if host or address:
        yield _literal(f"{host or 'MX'} [{address}]" if address else f"{host}")
    labelled = [
        ("from", detail.sending_mta_ip),
        ("EHLO", detail.receiving_mx_helo if detail.receiving_mx_helo != host else None),
        ("reason", detail.failure_reason_code),
        ("see", detail.additional_information),
    ]
    for label, value in labelled:
        if value:
            yield text.Text.assemble((f"{label} ", QUIET), _literal(value))


def _counts(successful: int, failed: int) -> text.Text:
    return text.Text.assemble(
        (f"{successful} successful", GOOD if successful else QUIET),
        ", ",
        (f"{failed} failed", BAD if failed else QUIET),
    )


def _pairs(rows: Iterable[tuple[str, text.Text]]) -> table.Table:
    grid = table.Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def _lines(strings: Sequence[str]) -> text.Text:
    rest = len(strings) - MAX_LINES
    lines = [_literal(string) for string in strings[:MAX_LINES]]
    return _lines_of([*lines, text.Text(f"and {rest} more", QUIET)] if rest > 0 else lines)


def _lines_of(lines: Iterable[text.Text]) -> text.Text:
    return text.Text("\n").join(lines)


def _literal(string: str, style: str = "") -> text.Text:
    """Return a string of a stranger: no markup, what does not print as an escape, cut when too long."""
    shown = printable.escaped(string[:MAX_TEXT])
    return text.Text(shown + ("…" if len(string) > MAX_TEXT else ""), style)
