"""A request of several rows, as a ticket for the pool and as what the journal has of it: an attempt of each row.

The rows of a request are attempts of their own, whose serials follow each other. Each holds its part of the money,
and gets its part of the tokens and of the cost, so that all that is summed over attempts adds up as ever. The raw
reply stands with the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from crun_batch.records import (
    Again,
    Attempt,
    Cost,
    Decision,
    Failure,
    Fault,
    FinishReason,
    GiveUp,
    PackPlace,
    Reply,
    Response,
    Ticket,
    Tries,
)
from crun_batch.session.tickets import NO_TRIES, Tickets
from crun_batch.store.packs import Stretch, divided, hold_part, sends_rows_alone, stretches, text_stretch
from crun_batch.workload.packed_reply import PackedAnswer, PackedReply, read_packed
from crun_batch.workload.packed_request import packed_request
from crun_batch.workload.packing import PackFormat
from crun_batch.workload.request import Variant

NO_ANSWERS: dict[FinishReason, str] = {
    "content_filter": "the gateway refused to answer {rows} rows together",
    "tool_calls": "the reply to {rows} rows is a call of a tool",
}
"""Replies that hold no answers, whatever they say."""
ASKED_ANEW = Again(0.0, NO_TRIES)
"""What follows for a row that its request brought no answer: it is another request, and begins anew."""


class Pack(Ticket, frozen=True, gc=False):
    """One request for several rows; as a ticket its unit and its row are those of the first."""

    members: tuple[Ticket, ...] = ()
    """Each row as it would be asked alone."""
    places: tuple[PackPlace, ...] = ()

    @property
    def form(self) -> PackFormat:
        """How the answers are to be written."""
        return form_of(self.places[0])

    @property
    def rows(self) -> list[Ticket]:
        """What the journal is told of: an attempt of each row, with its part of what is held."""
        return [
            structs.replace(
                member,
                body=self.body if place.place == 1 else b"",
                hold=hold_part(self.hold, place),
                attempt=member.attempt + self.attempt - 1,
                tries=self.tries,
                endpoint=self.endpoint,
                pack=place,
            )
            for member, place in zip(self.members, self.places, strict=True)
        ]


def pack_of(members: Sequence[Ticket], variant: Variant, form: PackFormat, tickets: Tickets) -> Pack:
    """The request for these rows, which are all of one variant. Raises RowRejected."""
    packed = packed_request(variant, [member.row for member in members], form)
    ticket = tickets.ticket(members[0].unit, members[0].row, packed.request, so_far=None, replaces=None)
    told = structs.asdict(ticket)
    counts = zip(*(structs.astuple(one.tries) for one in members), strict=True)
    told["tries"] = Tries(*map(max, counts))
    return Pack(**told, members=tuple(members), places=packed.places)


def form_of(place: PackPlace) -> PackFormat:
    """How the answers of the row's request are to be written."""
    return "json" if place.form == "json" else "lines"


def after_failure(failure: Failure, decision: Decision | None) -> Decision | None:
    """What follows for each row where its request failed, and is given up or not.

    One that was refused for what it holds, which may be one row, begins anew, alone. So does one that the gateway
    failed at every time, but with a single attempt more: nothing was billed, and it may be one row again.
    """
    if not isinstance(decision, GiveUp) or failure.outcome != "rejected":
        return decision
    if sends_rows_alone(failure.outcome, failure.kind):
        return ASKED_ANEW
    return Again(0.0, structs.replace(decision.tries, counted=max(0, decision.tries.counted - 1)))


def next_tickets(pack: Pack, own: Sequence[Attempt], tries: Tries = NO_TRIES) -> list[Ticket]:
    """Each row as it is asked alone after this request; `own`: the attempts that this one was."""
    return [
        structs.replace(member, attempt=one.ticket.attempt + 1, tries=tries)
        for member, one in zip(pack.members, own, strict=True)
    ]


def rows_arrivals(arrival: Response | Fault, rows: int) -> list[Response | Fault]:
    """What each row's record of a reply holds: the first one all of it, the others that it came."""
    bare: Response | Fault
    if isinstance(arrival, Response):
        bare = Response(arrival.status, {}, b"")
    else:
        bare = structs.replace(arrival, body=b"")
    return [arrival, *([bare] * (rows - 1))]


def answers_of(reply: Reply, rows: int, form: PackFormat) -> PackedReply:
    """What the reply says to each row."""
    why = NO_ANSWERS.get(reply.finish_reason)
    if why is not None:
        without = (PackedAnswer(complaint=why.format(rows=rows)),) * rows
        return PackedReply(without, is_refused=reply.finish_reason == "content_filter")
    return read_packed(reply.text, rows, form, is_cut=reply.finish_reason == "length")


def answer_stretches(said: PackedReply) -> list[Stretch]:
    """How much of the reply is each row's."""
    return stretches([answer.size for answer in said.answers])


def row_reply(
    whole: Reply, cost: Cost, place: PackPlace, answer: PackedAnswer, along: Stretch
) -> tuple[Reply | Failure, Cost]:
    """What a row has of a reply to several, and of what that cost; its failure where it holds no answer to it."""
    usage, part = divided(whole.usage, cost, text_stretch(place), along)
    is_first = place.place == 1
    if answer.complaint is not None:
        stated = whole.reported_usd if is_first else None
        return Failure("done", "bad_reply", "retry", answer.complaint, usage=usage, reported_usd=stated), part
    reply = structs.replace(
        whole,
        text=answer.text,
        finish_reason="stop",
        usage=usage,
        reported_usd=whole.reported_usd if is_first else None,
        assembled=whole.assembled if is_first else None,
    )
    return reply, part


def row_failure(whole: Failure, cost: Cost, place: PackPlace) -> tuple[Failure, Cost]:
    """What a row has of a failed request for several."""
    along = text_stretch(place)
    usage, part = divided(whole.usage, cost, along, along)
    stated = whole.reported_usd if place.place == 1 else None
    return structs.replace(whole, usage=usage, reported_usd=stated), part


def row_of_recorded(
    place: PackPlace, whole: Reply | Failure, cost: Cost, decision: Decision | None
) -> tuple[Reply | Failure, Cost, Decision | None]:
    """What a row has of a recorded reply to several, and what follows, without the others' records."""
    if isinstance(whole, Failure):
        failed, part = row_failure(whole, cost, place)
        return failed, part, after_failure(whole, decision)
    said = answers_of(whole, place.rows, form_of(place))
    along = answer_stretches(said)[place.place - 1]
    result, part = row_reply(whole, cost, place, said.answers[place.place - 1], along)
    return result, part, ASKED_ANEW if isinstance(result, Failure) else None
