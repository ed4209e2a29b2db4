"""Words for people: amounts, progress, tables, summaries, mistakes."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from crun_batch.console.amounts import (
    apart_money,
    counted,
    credit_amount,
    duration,
    from_pico,
    limited,
    money,
    rate,
    share,
    usd,
)
from crun_batch.console.bill_words import cost_phrase
from crun_batch.console.listings import credit_text
from crun_batch.console.progress import Progress, VariantProgress, tqdm_postfix
from crun_batch.console.tables import table
from crun_batch.console.words import display_width, mistakes_text, one_line, shorten, summary_text
from crun_batch.errors import Mistake
from crun_batch.records import PICO


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (4_200_000_000, "$0.0042"),
        (4_213_499_999, "$0.004213"),
        (PICO // 10, "$0.10"),
        (999_990_000_000, "$1.00"),
        (PICO, "$1.00"),
        (1_234_567_800_000_000, "$1,234.57"),
        (-PICO // 2, "-$0.50"),
        (10**40, "$10,000,000,000,000,000,000,000,000,000.00"),
    ],
)
def test_dollars(pico: int | None, text: str) -> None:
    """Cents from a dollar on, four significant digits below, and unknown is never 0."""
    assert text == usd(from_pico(pico))


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (None, "unknown"),
        (PICO, "1 credit"),
        (12_500_000_000_000, "12.5 credits"),
        (10_000_000_000, "0.01 credits"),
        (1000 * PICO, "1,000 credits"),
        (0, "0 credits"),
    ],
)
def test_credits(pico: int | None, text: str) -> None:
    """No decimals that say nothing."""
    assert text == credit_amount(from_pico(pico))


def test_money_is_shown_in_the_units_that_are_known() -> None:
    """A credit is not a dollar: no unit is made from the other."""
    assert "$0.0625 (12.5 credits)" == money(Decimal("0.0625"), Decimal("12.5"))
    assert "12.5 credits" == money(None, Decimal("12.5"))
    assert "$0.0625" == money(Decimal("0.0625"), None)
    assert "unknown" == money(None, None)
    assert "$0.00" == money(Decimal(0), Decimal(0)), "nothing is nothing, also where no price is in credits"
    assert "0 credits" == money(None, Decimal(0))


def test_what_sets_no_pace_is_not_named_as_what_does() -> None:
    """Neither a pilot's summary nor an estimate says "limited by not limited"."""
    assert ["limited by concurrency", "not limited"] == [limited(by) for by in ("concurrency", "not limited")]


@given(st.integers(min_value=1, max_value=10**20))
@settings(deadline=None, max_examples=200)
def test_shown_dollars_are_within_a_cent_or_four_digits(pico: int) -> None:
    """Rounding changes an amount of a dollar and more by half a cent at most, a smaller one by 0.05 %."""
    amount = Decimal(pico) / PICO
    shown = Decimal(usd(from_pico(pico)).replace("$", "").replace(",", ""))
    assert max(Decimal("0.005") if amount >= 1 else 0, amount / 2000) >= abs(shown - amount)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (86_369, "23 h 59 min"),
        (86_371, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """The two largest units, and no 60 seconds or 24 hours by rounding."""
    assert text == duration(seconds)


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        ("12.5", "credits", "12.5 credits left"),
        ("0", "credits", "0 credits left"),
        ("-1.75", "credits", "overdrawn by 1.75 credits"),
        ("-2", "usd", "overdrawn by $2.00"),
    ],
)
def test_a_balance_below_zero_is_nothing_left(amount: str, unit: str, text: str) -> None:
    """Negative money is nobody's."""
    document = {"base_url": "https://x.test", "balance": {"amount": amount, "unit": unit}}
    assert f"{text} (https://x.test)" == credit_text(document)


def test_counts_rates_and_shares() -> None:
    """Thousands are grouped; 100 % is said only where nothing is missing."""
    assert ["1 row", "1,319 rows", "0 rows"] == [counted(number, "row") for number in (1, 1319, 0)]
    assert ["12,100 rows/s", "85.2 rows/s", "0.04 rows/s"] == [rate(value) for value in (12_100, 85.21, 0.041)]
    assert ["99.9 %", "100 %", "26.3 %", "100 %"] == [
        share(99_999, 100_000),
        share(5, 5),
        share(1319, 5000),
        share(0, 0),
    ]


AMOUNTS = st.integers(0, 10**6 * PICO) | st.integers(0, 2 * PICO) | st.integers(0, 10**7)


@settings(max_examples=400)
@given(known=AMOUNTS, held=AMOUNTS.filter(bool), credits_per_usd=st.none() | st.sampled_from([1, 3, 200]))
@example(known=46_125_000_000_000, held=1, credits_per_usd=None)
@example(known=999_960_000_000, held=10_000_000, credits_per_usd=None)
@example(known=995, held=1, credits_per_usd=3)
def test_the_bounds_of_a_bill_never_contradict_what_is_known(
    known: int, held: int, credits_per_usd: int | None
) -> None:
    """The low end is the known cost digit by digit, the high end no less than it, nor than what it may be."""
    ratio = credits_per_usd
    units = {"usd": 1} if ratio is None else {"usd": 1, "credits": ratio}
    pico = Decimal(PICO)
    document: dict[str, Any] = {"attempts": 2, "unknown_attempts": 1}
    for unit, times in units.items():
        document |= {f"cost_{unit}": str(known * times / pico), f"held_{unit}": str(held * times / pico)}
    said = cost_phrase(document)
    shown, doubted, bounds = re.fullmatch(r"(.+) known; (.+): bill between (.+)", said).groups()  # type: ignore[union-attr]
    low, high = bounds.split(" and ")
    assert ("1 attempt of unknown outcome", shown) == (doubted, low)
    ends = [[Decimal(one) for one in re.findall(r"[\d.]+", text.replace(",", ""))] for text in (low, high)]
    for times, least, most in zip(units.values(), *ends, strict=False):
        assert most >= least
        assert most >= (known + held) * times / pico


PROGRESS = Progress(
    rows_total=5000,
    rows_done=1319,
    rows_failed=12,
    rows_per_second=85.2,
    spent_usd_pico=4_200_000_000,
    projected_usd_pico=16_000_000_000,
    held_usd_pico=10_000_000_000,
    in_flight=64,
    limit=128,
    eta_seconds=43.2,
    waiting_reason="cooling down after 429, 12 s",
)


def test_a_progress_line_says_everything() -> None:
    """One line: rows, failures, rate, money, requests, time, and why nothing moves."""
    expected = (
        "1,319 of 5,000 rows (26.3 %), 12 failed, 85.2 rows/s, spent $0.0042, projected $0.016, held $0.01, "
        "64 in flight (limit 128), 43 s left, cooling down after 429, 12 s"
    )
    assert expected == PROGRESS.text()


def test_a_bar_gets_what_it_does_not_show_itself() -> None:
    """Rows, rate and time left are the bar's own."""
    expected = "12 failed, $0.0042 of about $0.016, 64/128 in flight, cooling down after 429, 12 s"
    assert expected == tqdm_postfix(PROGRESS)
    begun = structs.replace(PROGRESS, projected_usd_pico=None)
    assert "12 failed, $0.0042 spent, 64/128 in flight" in tqdm_postfix(begun)
    assert "12 failed, cost unknown, 64/128 in flight" in tqdm_postfix(structs.replace(begun, spent_usd_pico=None))


def test_the_variants_of_a_sweep_are_told_those_that_fail_first() -> None:
    """At most six by name."""
    two = (VariantProgress("gpt/short", 700, 0), VariantProgress("gpt/long", 619, 12))
    many = tuple(VariantProgress(f"v{number}", 1, 0) for number in range(8))

    assert (
        structs.replace(PROGRESS, variants=two).text().endswith("12 s, gpt/long 619 (12 not ok) · gpt/short 700")
    )
    assert tqdm_postfix(structs.replace(PROGRESS, variants=many)).endswith(
        "v0 1 · v1 1 · v2 1 · v3 1 · v4 1 · v5 1 · 2 more"
    )


def test_progress_without_knowledge_says_unknown() -> None:
    """No price, no rate yet: unknown, never 0."""
    expected = (
        "0 of 1 row (0 %), 0 failed, 0.00 rows/s, spent unknown, projected unknown, "
        "0 in flight (limit 0), unknown left"
    )
    assert expected == Progress(rows_total=1, rows_done=0).text()


def test_a_table_is_aligned() -> None:
    """Numbers end in one column, texts begin in one; null is a dash."""
    expected = [
        "model   rows    cost",
        "-----  -----  ------",
        "gpt    1,319   $0.10",
        "日本       -  $12.00",
    ]
    rows = [["gpt", 1319, "$0.10"], ["日本", None, "$12.00"]]
    assert expected == table(["model", "rows", "cost"], rows).split("\n")


@given(
    st.lists(
        st.lists(st.text(max_size=60) | st.integers(-(10**9), 10**9) | st.none(), min_size=5, max_size=5),
        max_size=6,
    ),
    st.integers(min_value=40, max_value=100),
)
@example([[None, "", "", "", "0" * 19]], 40)
@example([[None, "", "", "", "0" * 60]], 40)
@settings(deadline=None, max_examples=200)
def test_a_table_never_exceeds_its_width_and_never_cuts_a_number(rows: list[list[Any]], width: int) -> None:
    """Whatever the cells hold: no line is wider, and every number stands there with all its digits."""
    titles = ["variant", "input tokens", "output tokens, at most", "credits from", "credits to"]
    text = table(titles, rows, width=width)
    assert width >= max(map(display_width, text.split("\n")))
    columns = list(zip(*rows, strict=True))
    for column in columns:
        if all(value is None or isinstance(value, int) for value in column):
            assert all(f"{value:,}" in text for value in column if value is not None)


def test_failed_rows_are_errors_and_nothing_else() -> None:
    """A truncated row got an answer: it is told by its own name."""
    progress = Progress(10, 6, rows_failed=1, rows_otherwise=(("truncated", 3), ("refused", 0)))
    assert "1 failed, 3 truncated, " in progress.text()
    assert tqdm_postfix(progress).startswith("1 failed, 3 truncated, ")


def test_titles_break_before_anything_is_shortened() -> None:
    """A title takes several lines before its figures or a name loses a character."""
    rows = [["gpt-5.4", 1_234_567, "2.1 credits"]]
    expected = [
        "variant     output      at most",
        "           tokens,",
        "           at most",
        "-------  ---------  -----------",
        "gpt-5.4  1,234,567  2.1 credits",
    ]
    assert expected == table(["variant", "output tokens, at most", "at most"], rows, width=32).split("\n")


def test_where_nothing_fits_each_row_stands_in_lines_of_its_own() -> None:
    """The figures stay whole, with their titles."""
    rows = [["gpt", 1_234_567, 7_654_321], ["claude", 1, 2]]
    expected = [
        "variant  gpt",
        "input    1,234,567",
        "output   7,654,321",
        "",
        "variant  claude",
        "input    1",
        "output   2",
    ]
    assert expected == table(["variant", "input", "output"], rows, width=20).split("\n")


def test_numbers_are_not_cut_while_texts_can_be() -> None:
    """A number without its last digits is another number."""
    lines = table(["text", "n"], [["x" * 50, 1_234_567]], width=24).split("\n")
    assert "xxxxxxxxxxxx…  1,234,567" == lines[2]


def test_shortening_counts_wide_characters_as_two() -> None:
    """Half a character is not shown."""
    assert ["日…", "日本語", "a…", ""] == [
        shorten("日本語", 4),
        shorten("日本語", 6),
        shorten("abc", 2),
        shorten("abc", 0),
    ]


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    """A model's answer cannot move the cursor, recolour, or turn the direction of a line."""
    assert not {"\x1b", "\x07", "\x9b", "\n", "\r", "\u202e", "\u2066", "\ud800"} & set(
        one_line(text + "\x1b[2J\u202e\ud800")
    )


SUMMARY: dict[str, Any] = {
    "name": "label-reviews",
    "status": "stopped",
    "stop_reason": "the budget of $5.00 is used up",
    "exit_code": 4,
    "rows": {"total": 5000, "ok": 4000, "invalid": 2, "truncated": 0, "refused": 0, "error": 3, "open": 995},
    "errors": {"server": 1, "rate_limited": 2},
    "tokens": {"input": 1_234_567, "cached_input": 1000, "cache_write": 0, "output": 12_345, "reasoning": 345},
    "cost_usd": "4.987654321000",
    "cost_credits": None,
    "held_usd": "0.012345678901",
    "held_credits": None,
    "attempts": 4010,
    "unknown_attempts": 2,
    "seconds": 200.0,
    "rows_per_second": 20.02,
    "output_dir": "runs/label-reviews",
    "resume_command": "crun-batch run job.yaml",
}


def test_a_summary_says_what_happened_and_what_to_do() -> None:
    """Rows by status, tokens, the known cost and the bounds of the bill, time, the command to go on."""
    expected = """\
label-reviews: stopped: the budget of $5.00 is used up (exit code 4)
  rows     5,000: 4,000 ok, 2 invalid, 3 error, 995 open
  errors   2 rate_limited, 1 server
  tokens   1,234,567 input (1,000 cached), 12,345 output (345 reasoning)
  cost     $4.99 known; 2 attempts of unknown outcome: bill between $4.99 and $5.00
  time     3 min 20 s, 20.0 rows/s, 4,010 requests
  results  runs/label-reviews
  resume   crun-batch run job.yaml"""
    assert expected == summary_text(SUMMARY)


def test_results_that_are_not_there_yet_have_no_place() -> None:
    """A session that was refused before its first request leaves no folder behind."""
    none = {**SUMMARY, "rows": {"total": 5, "open": 5, "ok": 0}}
    assert "  results  none yet; they go to runs/label-reviews\n" in summary_text(none)


OUT: dict[str, Any] = {
    "batch_id": "batch_1",
    "file_id": "file-1",
    "suspects": [],
    "status": "in_progress",
    "requests": 1,
    "done": 0,
    "held_usd": "2.5",
    "held_credits": None,
}
UNBOUNDED = {**OUT, "batch_id": None, "requests": 7, "held_usd": None}


@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        ({"unknown_attempts": 0}, "$4.99"),
        ({"unknown_attempts": 0, "cost_usd": None}, "unknown"),
        ({"cost_usd": None}, "unknown; 2 attempts of unknown outcome: bill between $0.00 and $0.01235"),
        (
            {"cost_usd": None, "unknown_attempts": 0, "unpriced_attempts": 3},
            "unknown; 3 attempts of unknown cost: bill between $0.00 and $0.01235",
        ),
        (
            {"cost_usd": None, "held_usd": "0"},
            "unknown; 2 attempts of unknown outcome: bill between $0.00 and $0.00",
        ),
        ({"attempts": 0, "unknown_attempts": 0, "cost_usd": "0"}, "none: nothing was sent"),
        (
            {"attempts": 0, "unknown_attempts": 0, "cost_usd": "0", "held_usd": "0", "batches": [OUT]},
            "none yet; 1 request out in 1 batch: bill between $0.00 and $2.50\n",
        ),
        (
            {"attempts": 0, "unknown_attempts": 0, "cost_usd": None, "held_usd": "0", "batches": [OUT, UNBOUNDED]},
            "none yet; 8 requests out in 2 batches may cost more, how much is unknown",
        ),
        (
            {"cost_usd": "1", "held_usd": "0.5", "unknown_attempts": 1, "batches": [OUT, OUT]},
            "$1.00 known; 1 attempt of unknown outcome and 2 requests out in 2 batches: "
            "bill between $1.00 and $6.50\n",
        ),
        ({"cost_usd": None, "held_usd": None}, "unknown; 2 attempts of unknown outcome may have cost more"),
        ({"held_usd": None}, "$4.99 known; 2 attempts of unknown outcome may have cost more, how much is unknown"),
        (
            {"cost_credits": "997.5", "held_credits": "2.5", "unknown_attempts": 1},
            "$4.99 (997.5 credits) known; 1 attempt of unknown outcome: "
            "bill between $4.99 (997.5 credits) and $5.00 (1,000 credits)",
        ),
    ],
)
def test_the_bill_is_never_said_to_be_smaller_than_it_may_be(changes: dict[str, Any], cost: str) -> None:
    """The high end is rounded up; without a hold or a price there are no bounds."""
    assert f"\n  cost     {cost}" in summary_text({**SUMMARY, **changes})


@given(st.decimals(0, 10_000, places=12), st.decimals(0, 10, places=12))
def test_the_bounds_never_contradict_the_known_cost(known: Decimal, held: Decimal) -> None:
    """As shown: low end = known cost <= high end, whatever the digits that were left out."""
    text = summary_text({**SUMMARY, "cost_usd": f"{known:f}", "held_usd": f"{held:f}"})
    shown, low, high = re.findall(r"\$([\d,.]+\d)", text.partition("\n  cost")[2].partition("\n")[0])
    assert shown == low
    assert Decimal(low.replace(",", "")) <= Decimal(high.replace(",", ""))
    assert known + held <= Decimal(high.replace(",", ""))


def test_a_batch_says_what_is_reserved_for_it() -> None:
    """Each in a line: its name, how far it is, the money; one whose create call nobody answered by its file."""
    text = summary_text({**SUMMARY, "batches": [OUT, UNBOUNDED]})
    assert "\n  batch    batch_1: in_progress when last asked, 0 of 1 request done, $2.50 reserved\n" in text
    assert "\n  batch    of file file-1: in_progress, 0 of 7 requests done\n" in text


def test_a_summary_of_a_good_run_is_short() -> None:
    """No errors, nothing to resume: no such lines."""
    changes = {"status": "finished", "stop_reason": None, "exit_code": 0, "errors": {}, "resume_command": None}
    text = summary_text({**SUMMARY, **changes})
    assert text.startswith("label-reviews: finished (exit code 0)\n")
    assert "errors" not in text
    assert "resume" not in text


def test_mistakes_are_numbered() -> None:
    """Each on its line with its place; the advice comes last."""
    found = [Mistake("no such key", file="job.yaml", line=3, key="modle"), Mistake("two\nlines")]
    expected = "2 mistakes:\n  1. job.yaml:3, modle: no such key\n  2. two lines\nSee `crun-batch schema`."
    assert expected == mistakes_text(found, "See `crun-batch schema`.")
    assert "two lines" == mistakes_text(found[1:])


def test_the_excerpt_of_a_statement_keeps_its_lines() -> None:
    """The caret stands below its place; control characters do not pass."""
    mistake = Mistake("syntax\nerror\nLINE 2:  wher\x1b[1m\n         ^", key="input.query")
    expected = "input.query: syntax error\n  LINE 2:  wher\ufffd[1m\n           ^"
    assert expected == mistakes_text([mistake])


def test_dollars_of_some_and_credits_of_others_are_not_one_amount() -> None:
    """A sum over variants that are priced in one unit each is two amounts, in the bounds of the bill too."""
    apart = [{"cost_usd": "2", "cost_credits": None}, {"cost_usd": None, "cost_credits": "3"}]
    both = [{"cost_usd": "2", "cost_credits": "400"}, {"cost_usd": None, "cost_credits": None}]
    told = {"attempts": 2, "unknown_attempts": 1, "held_usd": "1", "held_credits": "0", "judges": {}}
    for variants, credits_, words in [
        (
            apart,
            "3",
            "$2.00 and 3 credits known; 1 attempt of unknown outcome: bill between $2.00 and 3 credits and ",
        ),
        (
            both,
            "400",
            "$2.00 (400 credits) known; 1 attempt of unknown outcome: bill between $2.00 (400 credits) and ",
        ),
    ]:
        summary = {**told, "cost_usd": "2", "cost_credits": credits_, "variants": dict(enumerate(variants))}
        assert cost_phrase(summary).startswith(words)
    spent = Progress(rows_total=4, rows_done=2, spent_usd_pico=2 * PICO, spent_credits_pico=3 * PICO)
    assert "spent $2.00 (3 credits)" in spent.text()
    assert "spent $2.00 and 3 credits" in structs.replace(spent, is_apart=True).text()
    assert ["$0.00", "3 credits", "$2.00", "unknown"] == [
        apart_money(*map(known, pair)) for pair in [("0", "0"), ("0", "3"), ("2", "0"), (None, None)]
    ]


def known(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
