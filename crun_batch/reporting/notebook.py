"""A run as a notebook shows it: its summary as a short table, without script or style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.console.words import summary_headline, summary_lines
from crun_batch.reporting.markup import element


def summary_html(summary: Mapping[str, Any]) -> str:
    """The lines of `summary_text` as a table. `summary` is the run's summary.json."""
    rows = [
        element("tr", element("th", name, align="left"), element("td", phrase, align="left"))
        for name, phrase in summary_lines(summary)
    ]
    return element("table", element("caption", summary_headline(summary)), element("tbody", *rows))
