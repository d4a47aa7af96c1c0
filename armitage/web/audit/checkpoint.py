"""The checkpoint: what the log has promised, who saw it, and what the last verification found."""

from __future__ import annotations

from armitage.audit.auditor import State
from armitage.audit.query import Query
from armitage.audit.verifier import Verified
from armitage.audit.verify import Findings
from armitage.web.audit.layout import facts, moment, section
from armitage.web.html import Html, link, tag, text
from armitage.web.page import duration_text, size_text

_SHOWN_FAULTS = 50


def content(state: State, verified: Verified | None) -> Html:
    """All below the title."""
    behind = state.first + state.size - state.indexed
    return text(
        section(
            "Published",
            facts(
                ("Log", state.origin),
                ("Entries", f"{state.size:,}"),
                ("Root", tag("code", state.root.hex())),
                ("Public key", tag("code", state.key)),
                ("Index", f"{behind:,} entries behind" if behind else "up to date"),
            ),
            tag("pre", state.checkpoint),
            tag(
                "p",
                link("/log/checkpoint", "/log/checkpoint"),
                " and the tiles below /log/tile/ are what any C2SP tlog-tiles tool verifies.",
                class_="note",
            ),
        ),
        section("Logs that ended", *_past(state)) if state.past or state.past_problem else None,
        section("Witnesses", _witnesses(state)),
        section("Verification", *_verification(verified)),
        section(
            "By yourself",
            tag("p", "This server's word proves nothing to whoever does not trust it. This does:"),
            tag("pre", f"armitage audit verify --server URL --key '{state.key}'"),
            tag(
                "p",
                "It fetches and hashes everything where it runs. Keep the key, and the last "
                "checkpoint that you verified, where this server cannot change them.",
                class_="note",
            ),
        ),
    )


def _past(state: State) -> list[Html]:
    rows = [
        tag(
            "tr",
            tag(
                "th",
                link(f"/audit/log?{Query(log=each.origin).parameters()}", each.origin),
                scope="row",
            ),
            tag("td", f"{each.first:,} to {each.first + each.size - 1:,}"),
            tag("td", tag("code", each.key)),
        )
        for each in state.past
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in ("Log", "Entries", "Public key")))
    said = f"Others are not shown, and their attestations do not count: {state.past_problem}"
    note = "Each was ended by its own key, and the next one begins with its last checkpoint."
    return [
        tag("p", said, class_="alert", role="alert")
        if state.past_problem
        else tag("p", note, class_="note"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll"),
    ]


def _witnesses(state: State) -> Html:
    if not state.witnesses:
        return tag("p", "No witness cosigns this log (record.witnesses).", class_="soft")
    rows = [
        tag(
            "tr",
            tag("th", each.name, scope="row"),
            tag("td", f"{each.size:,} of {state.size:,} entries"),
            tag("td", moment(each.at_s or None)),
            tag(
                "td",
                tag("span", each.problem, class_="badge bad")
                if each.has_seen_more
                else each.problem,
            ),
        )
        for each in state.witnesses
    ]
    heads = ("Witness", "Cosigned", "When", "Problem")
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def _verification(verified: Verified | None) -> list[Html]:
    button = tag(
        "button",
        "Verify now",
        type="button",
        class_="first",
        data_verify="/api/audit/verify",
        hidden=True,
    )
    row = tag(
        "p", button, tag("span", id="verify-state", class_="soft", role="status"), class_="row"
    )
    bar = tag("progress", id="verify-progress", aria_label="Progress", hidden=True)
    return [_result(verified), row, bar]


def _result(verified: Verified | None) -> Html:
    if verified is None:
        return tag("p", "Nobody had it verified since this server started.", class_="soft")
    count = verified.faults
    state = (
        tag("span", f"{count} faults", class_="badge bad")
        if count
        else tag("span", "all as it was signed", class_="badge good")
    )
    faults = [
        tag("li", f"{found.checkpoint.origin}: {fault}")
        for found in verified.findings
        for fault in found.faults
    ][:_SHOWN_FAULTS]
    more = count - len(faults)
    return text(
        facts(
            ("Result", state),
            ("When", text(moment(verified.at_s), f", in {duration_text(verified.took_s)}")),
        ),
        *map(_found, verified.findings),
        tag("ul", *faults, tag("li", f"and {more} more") if more else None) if faults else None,
    )


def _found(found: Findings) -> Html:
    return facts(
        ("Log", found.checkpoint.origin),
        ("Entries", f"{found.entries:,} of {found.checkpoint.size:,}"),
        ("Fetches", f"{found.exchanges:,}"),
        ("Bodies", f"{found.bodies:,} with {size_text(found.body_bytes)}"),
        *((kind, f"{number:,}") for kind, number in sorted(found.counts.items())),
    )
