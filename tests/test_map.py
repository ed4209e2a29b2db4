"""The laws of `map`: the frame's type and order come back, the same call again pays nothing."""

from __future__ import annotations

import asyncio
import warnings

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from run_kit import ENVIRON, simulator

import crun_batch

TEXTS = {"text": [f"Text number {n}. [[gold:{n}]]" for n in range(12)], "n": list(range(12))}
PRICES = {"models": {"gpt-5.4": {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000}}}


@pytest.fixture(scope="module")
def gateway():
    with simulator(answer_style="number") as process:
        yield process


@pytest.fixture
def asked(gateway, tmp_path, monkeypatch):
    """`map` against the simulator, in an empty current directory."""
    monkeypatch.chdir(tmp_path)

    def ask(frame, **keys):
        endpoint = {"base_url": gateway.base_url, "api_key_env": "SIM_KEY"}
        told = {"prompt": "{{ text }}", "model": "gpt-5.4", "max_cost_usd": 5}
        told |= {"prices": {**PRICES, "credits_per_usd": 200}, "params": {"max_output_tokens": 300}}
        return crun_batch.map(frame, endpoint=endpoint, environ=ENVIRON, handle_signals=False, **{**told, **keys})

    return ask


@pytest.mark.parametrize("made", [pl.DataFrame, pd.DataFrame, pa.table])
def test_the_same_kind_of_frame_comes_back_with_the_answers_in_order(asked, made):
    """Polars, pandas, Arrow: the rows as they were, new columns beside them."""
    frame = made(TEXTS)
    answered = asked(frame)
    assert type(frame) is type(answered)
    texts = list(answered["output_text"].to_pylist() if made is pa.table else answered["output_text"])
    assert list(range(12)) == [int(text.rsplit("#### ", 1)[1]) for text in texts]
    assert TEXTS["n"] == (answered["n"].to_pylist() if made is pa.table else answered["n"].to_list())


def test_a_lazy_frame_is_read_once(asked):
    """Its rows may come in another order each time, and had stood beside the answers to others."""
    times = []

    def turned(frame):
        times.append(1)
        return pl.concat([frame[len(times) :], frame[: len(times)]])

    answered = asked(pl.LazyFrame(TEXTS).map_batches(turned))
    texts = [text.rsplit("#### ", 1)[1] for text in answered["output_text"]]
    assert [str(n) for n in answered["n"]] == texts


def test_the_index_of_a_pandas_frame_stays(asked):
    frame = pd.DataFrame(TEXTS, index=[f"i{n}" for n in reversed(range(12))])
    assert frame.index.equals(asked(frame).index)


def test_the_same_call_again_sends_nothing_and_another_prompt_is_another_run(asked, gateway, tmp_path):
    frame = pl.DataFrame(TEXTS)
    first = asked(frame)
    before = gateway.ledger()["count"]
    assert first.equals(asked(frame, max_cost_usd=6))
    assert before == gateway.ledger()["count"]
    asked(frame, prompt="Now: {{ text }}")
    assert before + 12 == gateway.ledger()["count"]
    assert 2 == len(list((tmp_path / "runs").glob("map-*")))


def test_a_call_that_is_cut_short_warns_and_the_next_goes_on(asked, gateway):
    """`limit` stands for whatever leaves rows open: they are null, and are asked by the next call."""
    frame = pl.DataFrame(TEXTS)
    before = gateway.ledger()["count"]
    first = asked(frame, prompt="Soon: {{ text }}", limit=5)
    assert [False] * 5 + [True] * 7 == first["output_text"].is_null().to_list()
    assert 0 == asked(frame, prompt="Soon: {{ text }}")["output_text"].null_count()
    assert before + 12 == gateway.ledger()["count"]


def test_it_works_inside_a_running_event_loop(asked):
    async def cell():
        return asked(pl.DataFrame(TEXTS))

    assert 12 == asyncio.run(cell()).height


def test_repeats_and_scores_have_their_lines_and_columns(asked):
    score = [{"name": "right", "grader": "number", "expected": "{{ n }}"}]
    answered = asked(pl.DataFrame(TEXTS), repeats=2, score=score)
    assert [n for n in range(12) for _ in range(2)] == answered["n"].to_list()
    assert [0, 1] * 12 == answered["repeat"].to_list()
    assert [1.0] * 24 == answered["score_right"].to_list()


def test_an_id_column_names_the_rows(asked):
    frame = pl.DataFrame({**TEXTS, "key": [f"k{n}" for n in range(12)]})
    texts = asked(frame, input={"id": "key"})["output_text"]
    assert list(range(12)) == [int(text.rsplit("#### ", 1)[1]) for text in texts]


def test_a_column_that_is_taken_is_refused_with_its_name(asked):
    """Nothing is overwritten."""
    with pytest.raises(crun_batch.InputError, match="'status'"):
        asked(pl.DataFrame({**TEXTS, "status": ["new"] * 12}))


def test_a_finished_call_warns_of_nothing(asked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(pl.DataFrame(TEXTS))


def test_a_gateway_that_refuses_everything_is_an_error_not_an_empty_column(asked):
    with pytest.raises(crun_batch.RefusedToStart, match="no-such-model"):
        asked(pl.DataFrame(TEXTS), model="no-such-model", max_cost_usd=None)
