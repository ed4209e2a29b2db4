"""The page around every report: page.html with page.css and page.js in it, no address of anything.

The page forbids itself everything else: its policy names these two texts by their checksums, so that no text of a
run can act as a script or style, and nothing can be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from minijinja import Environment

from crun_batch.reporting.markup import Markup, escape


def page(title: str, body: Markup) -> str:
    """A whole HTML document that needs nothing but itself."""
    style, script = _text("page.css"), _text("page.js")
    policy = (
        f"default-src 'none'; style-src '{_checksum(style)}'; script-src '{_checksum(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(templates={"page.html": _text("page.html")}, keep_trailing_newline=True)
    return environment.render_template(
        "page.html", title=escape(title), policy=policy, style=style, script=script, body=body
    )


@cache
def _text(name: str) -> str:
    return files("crun_batch.reporting").joinpath(name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
