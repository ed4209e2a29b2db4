"""The manual page, crun-batch(1), as troff: from the commands' own words and the exit codes of their page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crun_batch.cli.command_tree import CommandWords, Switch

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "crun-batch.1"
_EXIT_ROW = re.compile(r"^\| ([\d, ]+) \| (.*) \|$", re.MULTILINE)
ENVIRONMENT: Mapping[str, str] = {
    "CRUN_API_KEY": "the key for the default gateway; other keys are named by endpoint.api_key_env of a job",
    "CRUN_BASE_URL": "the address of the gateway where a job names none",
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY": "the proxy of every call; a name in lower case wins",
    "SSL_CERT_FILE, SSL_CERT_DIR": "certificates that are trusted in place of the system's",
    "CRUN_BATCH_DEBUG": "adds a traceback to the sentence about a bug",
}


def man_page(tree: Sequence[CommandWords], version: str, summary: str) -> str:
    """The page; deterministic, without a date."""
    return "\n".join(_page(tree, version, summary)) + "\n"


def _page(tree: Sequence[CommandWords], version: str, summary: str) -> Iterator[str]:
    yield f'.TH CRUN\\-BATCH 1 "" "crun\\-batch {_text(version)}"'
    yield ".SH NAME"
    yield f"crun\\-batch \\- {_text(summary[:1].lower() + summary[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield ".B crun\\-batch"
    yield ".I COMMAND"
    yield "[ARGUMENT...] [OPTION...]"
    yield ".SH DESCRIPTION"
    yield "A job file says what to send for each row of a table and what it may cost;"
    yield "a run directory holds what came."
    yield "JOB is a job file (.yaml, .toml, .json), RUN a run directory or the job file of one."
    yield ".SH OPTIONS"
    yield from (line for switch in tree[0].switches for line in _switch(switch))
    yield ".SH COMMANDS"
    for one in tree[1:]:
        yield f".SS {_text(' '.join((one.name, *one.arguments)))}"
        yield _text(one.summary)
        if one.words:
            yield _text(one.words)
        yield from (line for switch in one.switches if "--help" not in switch.names for line in _switch(switch))
    yield ".SH EXIT STATUS"
    table = (DOCS / "command-line.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    yield from _table({code: meaning.replace("`", "") for code, meaning in _EXIT_ROW.findall(table)})
    yield ".SH ENVIRONMENT"
    yield from _table(ENVIRONMENT)


def _switch(switch: Switch) -> Iterator[str]:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in switch.names)
    yield ".TP"
    yield names if switch.value is None else f"{names} \\fI{_text(switch.value)}\\fR"
    yield _text(switch.words)


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    for name, meaning in rows.items():
        yield ".TP"
        yield f".B {_text(name)}"
        yield _text(meaning)


def _text(text: str) -> str:
    """Text that troff prints as it is: no escape, no dash that becomes a hyphen, no line that is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
