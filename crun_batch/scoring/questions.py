"""What a judge is asked about an answer: its question rendered over the row and the answer, as a request.

The same answer of the same unit, asked about in the same way, is the same request: so a verdict is found again by
the hash of what was asked. Nothing is sent or written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.gateway.protocols.protocol import request_hash
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.templates import Unrenderable
from crun_batch.records import Prompt, Row
from crun_batch.scoring.graders import GradingFailed
from crun_batch.scoring.judge_prompt import judge_messages
from crun_batch.workload.request import Request, Variant
from crun_batch.workload.target import Judge
from crun_batch.workload.workload import Workload

REFUSED = (GradingFailed, Unrenderable, RowRejected)
"""Why there is no question about an answer, though the row expects one."""


class Said(Struct, frozen=True):
    """An answer, as far as a judge looks at it."""

    variant: str
    repeat: int
    text: str
    output: Any = None


class Questions:
    """Makes the questions of a job's judges."""

    def __init__(self, workload: Workload) -> None:
        self._templates = workload.templates
        self._variants = {variant.name: variant for variant in workload.variants}
        self._repeats = workload.repeats
        self._with_request = {judge.name: _names_request(judge, workload) for judge in workload.judges}
        self._shares = workload.job.share_identical
        used = {*workload.templates.columns, *workload.columns}
        self.columns = tuple(name for name in workload.table.schema.names if name in used)
        """What must be read of each row."""

    def knows(self, variant: str, repeat: int) -> bool:
        """Whether the job still has such answers."""
        return variant in self._variants and repeat < self._repeats

    def request(self, judge: Judge, said: Said, row: Row) -> Request | None:
        """The judge's request about an answer; None where the row expects nothing. Raises one of REFUSED."""
        asked = asked_text(self._variants[said.variant], row) if self._with_request[judge.name] else ""
        render = self._templates.render
        messages = judge_messages(judge.spec, row.values, said.text, said.output, render=render, request=asked)
        if messages is None:
            return None
        body = judge.body(row, messages, judge.job.params, judge.job.output_schema)
        hashed = request_hash(judge.terms.path, body)
        limit = judge.terms.output_limit_tokens
        return Request(
            body,
            hashed,
            hashed,
            judge.terms.model,
            len(body),
            limit,
            purpose="judge",
            cache_ttl=judge.cache_ttl(body),
            service_tier=judge.terms.service_tier,
        )

    def key(self, asked: str, row_id: int | str, variant: str, repeat: int) -> int:
        """64 bits that name a verdict: of the request's hash and the unit; of identical ones that share, no id."""
        unit = f"{asked}\0{variant}\0{repeat}" if self._shares else f"{asked}\0{variant}\0{repeat}\0{row_id}"
        return int.from_bytes(blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _names_request(judge: Judge, workload: Workload) -> bool:
    prompt = judge.spec.prompt
    if prompt is None:
        return True
    return any("request" in workload.templates.names_of(text) for text in (prompt.system, prompt.user) if text)


def asked_text(variant: Variant, row: Row) -> str:
    """What the model was asked, as text: one message as it is, several under their roles."""
    prompt = variant.renderer.render(row)
    messages = _messages_of(prompt)
    texts = [(message.get("role", "user"), _text_of(message.get("content"))) for message in messages]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def _messages_of(prompt: Prompt) -> Sequence[Mapping[str, Any]]:
    if prompt.body is None:
        return [*prompt.messages, *prompt.later_turns]
    fields = orjson.loads(prompt.body)
    given = fields.get("messages") or fields.get("input") or fields.get("prompt") or ""
    if isinstance(given, list) and all(isinstance(one, dict) for one in given):
        return given
    return [{"content": given if isinstance(given, str) else orjson.dumps(given).decode()}]


def _text_of(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    parts: Iterable[Any] = content if isinstance(content, list) else [content]
    return "\n".join(
        str(part.get("text", f"[{part.get('type', 'part')}]")) if isinstance(part, dict) else str(part)
        for part in parts
    )
