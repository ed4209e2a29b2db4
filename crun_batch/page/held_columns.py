"""What is held of each final, as SQL: columns of few bytes, the texts that are searched, the answer's hash.

Pure. A row that is not held has the same columns from its file, and its texts as they are there (RAW): a search
looks at LOW where it is, else at those.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.types as is_type
from msgspec import Struct

from crun_batch.page.facts import RunFacets
from crun_batch.store.schema import SEQUENCE, quoted

NARROW_BYTES = 24
"""A text column is held where its values are so long on average, or shorter."""
LOW = "_held_low"
"""All texts of a final that are searched, in lower case, in their order, with END between."""
TOLD = "_held_answer"
"""The hash of the answer; null where there is none."""
SURENESS = "_held_confidence"
"""How sure the answer says it is."""
RAW = "_held_text_"
END = "chr(0)"
"""Is left out of the texts: what is looked for has none."""
NO_TEXT = "null::varchar"


class HeldColumns(Struct, frozen=True):
    """The columns of results that are held, and the texts that are searched, each as SQL."""

    narrow: tuple[str, ...]
    searched: Mapping[str, str]
    """Column -> the text in it."""
    answer: str
    confidence: str | None

    def of_final(self, *, texts: bool) -> list[str]:
        """Of a final in a file; with `texts` as they are there."""
        confidence = [f"{self.confidence} as {SURENESS}"] if self.confidence is not None else []
        told = f"case when {self.answer} is null then null else hash({self.answer}) end as {TOLD}"
        raw = [f"{text} as {RAW}{place}" for place, text in enumerate(self.searched.values())]
        found = [SEQUENCE, *map(quoted, self.narrow), *confidence, told]
        return [*found, *([f"{NO_TEXT} as {LOW}", *raw] if texts else [])]

    def beside(self) -> list[str]:
        """What of that results have under no name of their own."""
        return self.of_final(texts=True)[1 + len(self.narrow) :]

    def of_held(self, *, texts: bool) -> list[str]:
        """The same columns of a row that is held."""
        raw = [f"{NO_TEXT} as {RAW}{place}" for place in range(len(self.searched))]
        confidence = [SURENESS] if self.confidence is not None else []
        return [SEQUENCE, *map(quoted, self.narrow), *confidence, TOLD, *([LOW, *raw] if texts else [])]

    @property
    def low(self) -> str:
        """LOW, from the columns of a final."""
        texts = (f"coalesce(replace({text}, {END}, ''), '')" for text in self.searched.values())
        return f"lower(concat_ws({END}, {', '.join(texts)})) as {LOW}"


def held_columns(facets: RunFacets, bytes_of: Mapping[str, float]) -> HeldColumns:
    """What is held of a run whose columns have on average so many bytes a value, where it is known."""
    always = (facets.id_name, "variant", "repeat", "status")
    narrow = [
        name
        for name, of_type in facets.columns.items()
        if name not in facets.score_columns and (name in always or _is_narrow(of_type, bytes_of.get(name, 0)))
    ]
    answer = quoted("output") if "output" in facets.columns else "trim(output_text)"
    searched = {name: text_of(name, facets.columns[name]) for name in facets.searched}
    return HeldColumns(tuple(narrow), searched, answer, facets.confidence)


def text_of(name: str, of_type: pa.DataType) -> str:
    """A column's value as a text to search in: what is nested as the page shows it."""
    if is_type.is_string(of_type):
        return quoted(name)
    return f"to_json({quoted(name)})::varchar" if is_type.is_nested(of_type) else f"{quoted(name)}::varchar"


def is_text(of_type: pa.DataType) -> bool:
    """Whether values may be of any length."""
    return bool(is_type.is_string(of_type) or is_type.is_large_string(of_type) or is_type.is_binary(of_type))


def _is_narrow(of_type: pa.DataType, bytes_a_value: float) -> bool:
    return not is_type.is_nested(of_type) and (not is_text(of_type) or bytes_a_value <= NARROW_BYTES)
