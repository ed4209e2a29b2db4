"""The hooks and the tickets of a job that packs, around those of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.pricing.bill import Bill
from crun_batch.session.lanes import SkippingSource
from crun_batch.session.packing.packs import Packs
from crun_batch.session.packing.recorder import PackRecorder
from crun_batch.session.packing.tickets import PackedTickets
from crun_batch.session.recorder import RowRecorder
from crun_batch.session.sharing import Sharing
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext
from crun_batch.workload.conversation import Conversation


def in_packs(
    context: RunContext,
    tools: Tools,
    bill: Bill,
    conversations: Sequence[Conversation],
    recorder: RowRecorder,
    source: SkippingSource,
    sharing: Sharing | None,
) -> tuple[PackRecorder, PackedTickets]:
    """Around the rows' own; in a pilot each row is asked alone as well."""
    variants = context.workload.variants
    packs = Packs(variants, context.options.say)
    hooks = PackRecorder(recorder, packs, conversations, bill, compares=context.options.pilot is not None)
    open_units = context.state.account.open_units
    return hooks, PackedTickets(source, packs, variants, tools.tickets, open_units, sharing)
