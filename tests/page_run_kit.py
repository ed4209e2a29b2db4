"""The run that the tests of the local page look at: two variants, a judge, a picture, refusals, hostile texts."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl
from said_gateway import gateway

import crun_batch
from crun_batch.load.job.job import load_job

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d494844520000000100000001080600000"
        "01f15c4890000000d4944415478da63fccfc0500f00048501807c9a2e150000000049454e44ae426082"
    )
).decode()
HOSTILE = (
    "\"></td></script><script>window.hostile=1</script><img src=x onerror='window.hostile=2'>"
    "<svg onload=window.hostile=3><iframe srcdoc='<script>parent.hostile=4</script>'></iframe>"
    "<a href='javascript:window.hostile=5'>x</a>{{constructor.constructor('window.hostile=6')()}}"
    "\u202e\u0007<style>*{display:none}</style><base href=//evil.example/><meta http-equiv=refresh content=0>"
)
PLAIN, OTHER = "gpt-5.4", "gpt-5.4-nano"


def said(asked: Mapping[str, Any]) -> tuple[int, str]:
    """Hostile words to every question; the second model says other ones, and refuses each fifth row."""
    text = json.dumps(asked["messages"])
    if asked["model"] == "judge":
        return 200, json.dumps({"reason": f"because {HOSTILE}", "score": 0 if "Row 3." in text else 1})
    if asked["model"] == OTHER and any(f"Row {number}." in text for number in range(0, 100, 5)):
        return 400, f"refused: {HOSTILE}"
    is_same = any(f"Row {number}." in text for number in (1, 2, 3))
    return 200, f"The answer is {'red' if asked['model'] == PLAIN or is_same else 'blue'}. {HOSTILE}"


def make_run(folder: Path, rows: int) -> Path:
    """The run directory of a finished run over a table in that folder, which is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"Row {number}. {HOSTILE}" for number in range(rows)]
    table = pl.DataFrame({"id": [f"r{number}" for number in range(rows)], "text": texts})
    table.write_ndjson(folder / "rows.jsonl")
    (folder / "dot.png").write_bytes(base64.b64decode(PNG))
    picture = [{"type": "text", "text": "{{ text }}"}, {"type": "image", "image": "dot.png"}]
    with gateway(said) as base_url:
        tree = {
            "name": "hostile",
            "input": {"table": "rows.jsonl", "id": "id"},
            "endpoint": {"base_url": base_url, "auth": "none"},
            "prompt": {"messages": [{"role": "user", "content": picture}]},
            "sweep": {"model": [PLAIN, OTHER]},
            "score": [{"name": "polite", "grader": "judge", "model": "judge"}],
            "limits": {"stop_at_error_rate": 1.0},
            "output": {"dir": str(folder / "run"), "columns": ["text"]},
        }
        (folder / "job.json").write_text(json.dumps(tree))
        done = crun_batch.run(load_job(folder / "job.json"), handle_signals=False)
    return done.directory


class Asker:
    """Asks a page's server as a program does."""

    def __init__(self, view: crun_batch.View) -> None:
        self.base, _, token = view.url.partition("/#token=")
        self.token = {"X-Crun-Batch-Token": token}

    def get(self, name: str, *pairs: tuple[str, str], **parameters: str) -> Any:
        """The document of an answer, whatever its status."""
        query = urlencode([*pairs, *parameters.items()])
        return json.loads(self.raw(f"/api/{name}?{query}", self.token)[2])

    def raw(
        self, path: str, headers: Mapping[str, str] = {}, method: str = "GET", body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers in lower case, body."""
        request = urllib.request.Request(self.base + path, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
