"""What a domain asks for as a tree, for a postmaster who does not know the RFCs.

Pure: an explanation in, a rich renderable out. Texts from strangers are shown as they are, never as markup.
"""

from rich import text, tree

from policy import explaining, tlsrpt, verdict
from sender import printable

_MEANING = {
    verdict.Level.DANE_ONLY: "Mail goes only to hosts whose certificate matches their TLSA records in the DNS.",
    verdict.Level.DANE: "Where a host has TLSA records in the DNS, its certificate must match them.",
    verdict.Level.SECURE: "Mail goes only to hosts that the policy names, and that have a valid certificate for it.",
    verdict.Level.NONE: "Nothing is enforced: the server does as it is set up (smtp_tls_security_level of Postfix).",
}

_ABOUT = {
    verdict.About.DANE: "DANE: certificates named in the DNS",
    verdict.About.MTA_STS: "MTA-STS: a policy on a web server",
    verdict.About.ANSWER: "Together",
}


def make(explained: explaining.Explanation) -> tree.Tree:
    """Return the tree."""
    decided = explained.decided
    top = tree.Tree(text.Text(decided.domain, style="bold"))
    answer = _branch(top, "The answer")
    _leaf(answer, explained.answers()["QUERY"].strip(), "bold" if decided.level is verdict.Level.NONE else "bold green")
    _leaf(answer, _MEANING[decided.level])
    for about, title in _ABOUT.items():
        steps = [step.text for step in decided.steps if step.about is about]
        if steps:
            branch = _branch(top, title)
            for step in steps:
                _leaf(branch, step)
    if decided.finding is not None:
        _leaf(_branch(top, "What is wrong"), f"{decided.finding.result_type}: {decided.finding.reason}", "red")
    reports = _branch(top, "TLSRPT: who wants to hear of it")
    for line in _reports(explained):
        _leaf(reports, line)
    return top


def _reports(explained: explaining.Explanation) -> list[str]:
    if explained.trouble is not None:
        return [explained.trouble]
    if explained.record is None:
        return ["The domain does not ask for reports."]
    return _destinations(explained.record) or ["It asks for reports, but does not say where to send them."]


def _destinations(record: tlsrpt.Record) -> list[str]:
    unusable = [f"No report can be sent to {one.uri}: {one.reason}" for one in record.unusable]
    return [*(f"Reports go to {rua.uri}" for rua in record.rua), *unusable]


def _branch(parent: tree.Tree, title: str) -> tree.Tree:
    return parent.add(text.Text(title, style="cyan"))


def _leaf(parent: tree.Tree, line: str, style: str = "") -> None:
    parent.add(text.Text(printable.escaped(line), style=style))
