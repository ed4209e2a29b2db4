"""Files and batches of a gateway: who brought what, how far it is, and what may be read of it.

Owns what outlives a call. Time is passed in, so that tests turn it; a batch is brought to the moment at each call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from crun_batch.simulator.batches.batch import Batch, BatchFormName, BatchTerms
from crun_batch.simulator.batches.calls import Call, Lost, not_found
from crun_batch.simulator.batches.faults import hits
from crun_batch.simulator.batches.files import StoredFile
from crun_batch.simulator.batches.lines import BatchLine, WrongLine, openai_line, tokens_of
from crun_batch.simulator.generation import Generation, Rejected
from crun_batch.simulator.refusals import refusal
from crun_batch.simulator.settings import Settings


class BatchDesk:
    """All files and batches."""

    def __init__(self, generation: Generation, clock: Callable[[], float]) -> None:
        self.generation = generation
        self.clock = clock
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, Batch] = {}
        self._made = 0

    def new_id(self, prefix: str) -> str:
        """An id as long and as patternless as a provider's."""
        self._made += 1
        return prefix + hashlib.blake2b(f"{prefix}{self._made}".encode(), digest_size=12).hexdigest()

    def keep_file(self, key_name: str, name: str, purpose: str, content: bytes) -> StoredFile:
        """An uploaded file."""
        file = StoredFile(
            self.new_id("file-"), key_name, name, purpose, self.clock(), len(content), lambda: content
        )
        self.files[file.id] = file
        return file

    def made(
        self, terms: BatchTerms, lines: Sequence[BatchLine], wrong: WrongLine | None, settings: Settings
    ) -> Batch:
        """A batch from now on; too many enqueued tokens make it fail, as lines do that are wrong.

        Raises Rejected where a fault keeps it from being made, Lost where one keeps its reply.
        """
        if hits(settings, "create_failed", terms.id):
            raise Rejected(refusal(500))
        wrong = wrong or self.too_many_tokens(terms.key_name, lines, settings)
        batch = self.batches[terms.id] = Batch(terms, lines, wrong)
        if hits(settings, "create_lost", terms.id):
            raise Lost("create_lost")
        return batch

    def lines_wrong(self, lines: Sequence[BatchLine]) -> WrongLine | None:
        """What is wrong with the first of them that asks a model which there is not; None: none of them does."""
        try:
            for line in lines:
                tokens_of(line, self.generation)
        except WrongLine as wrong:
            return wrong
        return None

    def too_many_tokens(self, key_name: str, lines: Sequence[BatchLine], settings: Settings) -> WrongLine | None:
        """Why these lines are more than may wait at one time; None: they are not."""
        limit, model = settings.batch_enqueued_tokens, lines[0].body.get("model")
        if limit is None:
            return None
        waiting = [line for batch in self._running(key_name) for line in batch.lines[len(batch.results) :]]
        enqueued = [*lines, *(line for line in waiting if line.body.get("model") == model)]
        if sum(map(self._tokens, enqueued)) <= limit:
            return None
        message = f"Enqueued token limit reached for {model}. Limit: {limit:,} enqueued tokens."
        return WrongLine("token_limit_exceeded", message)

    def _tokens(self, line: BatchLine) -> int:
        try:
            return tokens_of(line, self.generation)
        except WrongLine:  # told in its result
            return 0

    def _running(self, key_name: str) -> list[Batch]:
        mine = [batch for batch in self.batches.values() if batch.terms.key_name == key_name]
        return [batch for batch in mine if not batch.has_ended and batch.wrong is None]

    def advance(self, settings: Settings) -> None:
        """Bring every batch to this moment."""
        now = self.clock()
        for batch in self.batches.values():
            was_over = batch.has_ended
            batch.advance(now, settings, self.generation)
            if batch.has_ended and not was_over and batch.terms.input_file_id is not None:
                self._leave_files(batch, settings)

    def _leave_files(self, batch: Batch, settings: Settings) -> None:
        """The output and the error file, each where there is something in it."""
        for kind, is_output in (("output", True), ("error", False)):
            told = [
                (number, result)
                for number, result in enumerate(batch.delivered(settings))
                if result.ending != "canceled" and (result.ending == "succeeded") == is_output
            ]
            if told:
                content = b"".join(openai_line(result, batch.terms.id, number) + b"\n" for number, result in told)
                name = f"{batch.terms.id}_{kind}.jsonl"
                file = self.keep_file(batch.terms.key_name, name, "batch_output", content)
                batch.left_files[kind] = file.id

    def is_gone(self, call: Call, name: str, ended_at: float) -> bool:
        """Whether what a batch brought, which is called so, can no longer be read."""
        most = call.settings.batch_output_seconds
        is_late = most is not None and self.clock() > ended_at + most
        return is_late or hits(call.settings, "output_gone", name)

    def asked(self, call: Call, form: BatchFormName) -> Batch:
        """The batch that a call names, its key's, in the form that is asked. Raises Rejected: there is none."""
        found = self.batches.get(call.name)
        if found is None or found.terms.key_name != call.key_name or found.terms.form != form:
            raise Rejected(not_found(f"No batch found with id '{call.name}'."))
        return found

    def listed(self, call: Call, form: BatchFormName) -> list[Batch]:
        """The key's batches in a form, the newest first, as far as the list knows them already."""
        seen_until = self.clock() - call.settings.batch_list_lag_seconds
        return [
            batch
            for batch in reversed(self.batches.values())
            if batch.terms.key_name == call.key_name
            and batch.terms.created_at <= seen_until
            and batch.terms.form == form
        ]
