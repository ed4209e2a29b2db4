"""An estimate in words, from its plain document (the same that --json prints)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, counted, credit_amount, duration, limited, usd
from crun_batch.console.tables import table
from crun_batch.console.words import entry, named, one_line, reused_phrase

Show = Callable[..., str]
MONEY: Mapping[str, Show] = {"cost_usd": usd, "cost_credits": credit_amount}
UNIT = {"usd": usd, "credits": credit_amount}
TOKEN_COLUMNS = ("variant", "model", "requests", "input tokens", "output tokens, at most")


def estimate_text(estimate: Mapping[str, Any], width: int | None = None) -> str:
    """What would be sent, what it costs at least and at most, the balance, the time, and what to mind."""
    head = f"{named(estimate)}: {counted(estimate['requests'], 'request')} for {_rows(estimate['open_rows'])}"
    reused = reused_phrase(estimate.get("reused"))
    if not estimate["requests"]:
        return f"{named(estimate)}: nothing left to send{f'; {reused}' if reused else ''}"
    lines = [
        *(("cost", phrase) for phrase in _costs(estimate)),
        *(("", phrase) for phrase in _minimum_phrases(estimate)),
        ("reused", reused),
        ("balance", _balance(estimate)),
        ("time", _time(estimate)),
        *(("identical", phrase) for phrase in _identical_phrases(estimate)),
        *(("cache", phrase) for phrase in _cache_phrases(estimate)),
        *(("cheaper", phrase) for phrase in _cheaper_phrases(estimate)),
        *(("note", one_line(note)) for note in _notes(estimate)),
    ]
    if not estimate["may_start"]:
        lines.append(("refused", "; ".join(map(one_line, estimate["checks"]))))
    block = "\n".join(entry(f"  {name:<9} ", phrase, width) for name, phrase in lines if phrase)
    return f"{one_line(head)}\n\n{_variants(estimate, width)}\n\n{block}"


def _rows(open_rows: int) -> str:
    return counted(open_rows, "open row")


def _variants(estimate: Mapping[str, Any], width: int | None) -> str:
    """One line per variant; its cost only where there are several: the sum is said below."""
    variants = estimate["variants"]
    unit = next((key for key in MONEY if _known(estimate[key])), None) if len(variants) > 1 else None
    names: tuple[str, ...] = TOKEN_COLUMNS
    if unit is not None:
        short = unit.removeprefix("cost_")
        names = (*names, f"{short} from", f"{short} to")
    rows = [(*_tokens(variant), *(_ends(variant[unit]) if unit else ())) for variant in variants]
    return table(names, rows, width=width)


def _tokens(variant: Mapping[str, Any]) -> tuple[str, ...]:
    most = variant["output_tokens"]["high"]
    return (
        _called(variant),
        variant["model"],
        count(variant["requests"]),
        ("" if variant["counter_exact"] else "~") + count(variant["input_tokens"]),
        UNKNOWN if most is None else count(most),
    )


def _called(variant: Mapping[str, Any]) -> str:
    """By its name, and by how many rows stand in one of its requests where that is not one."""
    rows = variant.get("rows_together", 1)
    return f"{variant['name']}, {count(rows)} rows each" if rows > 1 else variant["name"]


def _ends(span: Mapping[str, str | None]) -> tuple[str, str]:
    low, high = (UNKNOWN if span[end] is None else _bare(Decimal(span[end] or 0)) for end in ("low", "high"))
    return low, high


def _bare(amount: Decimal) -> str:
    return credit_amount(amount).partition(" ")[0]


def _known(span: Mapping[str, str | None]) -> bool:
    return any(value is not None for value in span.values())


def _costs(estimate: Mapping[str, Any]) -> list[str]:
    is_exact = all(_is_exact(variant) for variant in estimate["variants"])
    phrases = [
        _span(estimate[key], show, is_exact=is_exact) for key, show in MONEY.items() if _known(estimate[key])
    ]
    return phrases or [UNKNOWN]


def _is_exact(variant: Mapping[str, Any]) -> bool:
    """Whether every row was read and its tokens counted as the model does."""
    return bool(variant["counter_exact"]) and variant["rows_read"] >= variant["rows"]


def _span(span: Mapping[str, str | None], show: Show, *, is_exact: bool) -> str:
    """Where tokens are counted by an approximation, or rows estimated from others, neither end is a bound.

    What is reserved for the requests is one, where there is such a bound, never shown too small; of requests in
    batches it always is. Where finished rows cost less than the low end, as by a cache, it is none.
    """

    def text(end: str, rounding: str = ROUND_HALF_EVEN) -> str:
        value = span[end]
        return UNKNOWN if value is None else show(Decimal(value), rounding)

    middle = f"expected {text('expected')}, " if span["expected"] is not None else ""
    low = _low_end(span)
    if not is_exact:
        bound = f", at most {text('at_most', ROUND_CEILING)}" if span["at_most"] is not None else ""
        return f"{middle}about {text(low)} to {text('high')}{bound}"
    least = f"at least {text('low')}, " if low == "low" else ""
    counted = f"{middle}{least}at most {text('high')}"
    if span.get("at_most") in (None, span["high"]):
        return counted
    return f"{counted} by its tokens; reserved until its batches end: at most {text('at_most', ROUND_CEILING)}"


def _low_end(span: Mapping[str, str | None]) -> str:
    """Which of its amounts is the lower: the low end, or what is expected."""
    low, expected = span["low"], span["expected"]
    return "expected" if low is not None and expected is not None and Decimal(expected) < Decimal(low) else "low"


def _minimum_phrases(estimate: Mapping[str, Any]) -> list[str]:
    """What the minimum charge adds, for each variant where it adds anything."""
    phrases = []
    for variant in estimate["variants"]:
        minimum = variant["minimum_charge"]
        if minimum is None or not Decimal(minimum["adds_beyond_tokens"]["low"]):
            continue
        show = UNIT[minimum["currency"]]
        adds = show(Decimal(minimum["adds_beyond_tokens"]["low"]))
        least = show(Decimal(minimum["minimum_per_request"]))
        where = f" ({_called(variant)})" if len(estimate["variants"]) > 1 else ""
        phrases.append(f"of it {adds} because a request costs at least {least}{where}")
    return phrases


def _balance(estimate: Mapping[str, Any]) -> str:
    balance = estimate["balance"]
    if balance is None:
        return ""
    return "unlimited" if balance["amount"] is None else UNIT[balance["unit"]](Decimal(balance["amount"]))


def _time(estimate: Mapping[str, Any]) -> str:
    needed = estimate["time"]["expected"] if estimate["time"]["expected"]["seconds"] else estimate["time"]["low"]
    if not needed["seconds"]:
        return ""
    return f"at least {duration(needed['seconds'])}, {limited(needed['limited_by'])}"


def _identical_phrases(estimate: Mapping[str, Any]) -> list[str]:
    phrases = []
    for variant in estimate["variants"]:
        identical = variant["identical"]
        if not identical["requests"]:
            continue
        least = "at least " if identical["at_least"] else ""
        of = f" of variant {variant['name']}" if len(estimate["variants"]) > 1 else ""
        saved = [
            show(Decimal(span["low"])) for key, show in UNIT.items() if (span := identical[f"saves_{key}"])["low"]
        ]
        worth = f", which saves {' or '.join(saved)} and more" if saved else ""
        phrases.append(
            f"{least}{counted(identical['requests'], 'request')}{of} repeat an earlier one; "
            + (
                f"each is sent once{worth}"
                if identical["shared"]
                else f"share_identical: true sends each once{worth}"
            )
        )
    return phrases


def _cache_phrases(estimate: Mapping[str, Any]) -> list[str]:
    """What `prompt.cache` does, for each variant of which something is kept."""
    phrases = []
    for told in estimate.get("ways", ()):
        cache = told.get("cache")
        if cache is None:
            continue
        of = f" of {told['variant']}" if len(estimate["ways"]) > 1 else ""
        read = f"{_share(cache['read_share'])} of the input{of} is read from the provider's cache, if it keeps"
        kept = f"the {counted(cache['prefix_tokens'], 'token')} that all requests begin with"
        saves, costs = cache["saves"], told["as_it_is"]
        show = UNIT[told["currency"]]
        ends = [end for end in ("low", "high") if costs[end] is not None]
        worth = min(saves[end] for end in ends)
        how = f"saves {_share(worth)}" if worth >= 0 else f"costs {_share(-worth)} more"
        between = " to ".join(dict.fromkeys(show(Decimal(costs[end])) for end in ends))
        phrases.append(f"{read} {kept}: {between}, which {how}")
    return phrases


def _cheaper_phrases(estimate: Mapping[str, Any]) -> list[str]:
    """The cheapest other way to ask the same, for each variant that has one."""
    phrases = []
    for told in estimate.get("ways", ()):
        best = told["cheapest"]
        if best is None:
            continue
        cost, saves = best["cost"], best["saves"]
        show = UNIT[told["currency"]]
        ends = [end for end in ("low", "high") if cost[end] is not None]
        costs = " to ".join(dict.fromkeys(show(Decimal(cost[end])) for end in ends))
        shares = " to ".join(dict.fromkeys(_share(saves[end]) for end in ends))
        if cost["expected"] is not None:
            costs = f"expected {show(Decimal(cost['expected']))}, {costs}"
            shares = f"{_share(saves['expected'])} as expected, {shares}"
        of = f" of {told['variant']}" if len(estimate["ways"]) > 1 else ""
        how = best["job"] or "by a table whose rows hold several"
        phrases.append(one_line(f"{best['way']}{of} ({how}): {costs}, which saves {shares}"))
    return phrases


def _share(saved: float) -> str:
    return f"{100 * saved:.0f} %"


def _notes(estimate: Mapping[str, Any]) -> list[str]:
    checks = estimate["checks"] if estimate["may_start"] else []
    return list(dict.fromkeys([*estimate["notes"], *_notes_of_variants(estimate["variants"]), *checks]))


def _notes_of_variants(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each once; one that does not hold for all variants after the names of those that it holds for."""
    holders: dict[str, list[str]] = {}
    for variant in variants:
        for note in variant["notes"]:
            holders.setdefault(note, []).append(_called(variant))
    return [
        note if len(names) == len(variants) else f"{', '.join(names)}: {note}" for note, names in holders.items()
    ]
