"""What finished requests did: the ground of what those still to be sent are expected to cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Finished(Struct, frozen=True):
    """What finished requests of one variant or judge did: sums. Costs are those of `priced_requests` of them."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    priced_requests: int = 0
    cost_usd_pico: int | None = None
    cost_credits_pico: int | None = None

    def less(self, part: Finished | None) -> Finished:
        """Without those of them that `part` is about."""
        if part is None:
            return self

        def rest(name: str) -> int | None:
            whole: int | None = getattr(self, name)
            return None if whole is None else whole - (getattr(part, name) or 0)

        return Finished(**{name: rest(name) for name in self.__struct_fields__})  # type: ignore[arg-type]


class FinishedRequests(Struct, frozen=True):
    """What finished requests did: of rows alone and of rows among others by variant, and by judge.

    Of a request for several rows each of them counts as one, with its part.
    """

    alone: Mapping[str, Finished] = {}
    packed: Mapping[str, Finished] = {}
    judges: Mapping[str, Finished] = {}

    def like(self, variant: str, *, packs: bool, rows: int) -> Finished | None:
        """What is like a request of so many rows. In a job that packs, a row is alone where no others are left."""
        packed = self.packed.get(variant) if packs else None
        alone = self.alone.get(variant) if rows == 1 else None
        return alone if alone is not None and alone.requests else packed
