"""The laws of graders: what a reply scores, from 0 to 1, and when it has no score at all."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.load.job.grader_rules import GRADERS, grader_mistakes
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.load.job.judges import verdict_schema
from crun_batch.scoring.extract import ABSENT, json_value, last_number
from crun_batch.scoring.functions import load_function
from crun_batch.scoring.graders import GradingFailed, compile_grader, grade
from crun_batch.scoring.judge_prompt import judge_messages, read_verdict


def render(template: str, values: Any) -> str | None:
    """Stands in for the template engine: `{{ column }}` only; a null column is no expected value."""
    names = re.findall(r"{{ (\w+) }}", template)
    if any(values[name] is None for name in names):
        return None
    return re.sub(r"{{ (\w+) }}", lambda found: str(values[found[1]]), template)


def spec(grader: str, **keys: Any) -> GraderSpec:
    return GraderSpec(name="right", grader=grader, **keys)


def score(grader: str, text: str | None, row: Any = None, output: Any = None, **keys: Any) -> float | None:
    return grade(spec(grader, **keys), row or {}, text, output, render=render)


CASES = [
    (1, "exact", "yes", {"expected": "yes"}),
    (1, "exact", "  yes\n", {"expected": "yes"}),
    (0, "exact", " yes", {"expected": "yes", "whitespace": "keep"}),
    (0, "exact", "a  b", {"expected": "a b"}),
    (1, "exact", "a \n b", {"expected": "a b", "whitespace": "collapse"}),
    (0, "exact", "Yes", {"expected": "yes"}),
    (1, "exact", "STRASSE", {"expected": "straße", "ignore_case": True}),
    (1, "exact", "42", {"expected": 42}),
    (1, "exact", "true", {"expected": True}),
    (1, "exact", "the answer is: B.", {"expected": "B", "pattern": r"answer is: (\w)"}),
    (1, "exact", "answer is: A, no, answer is: B", {"expected": "B", "pattern": r"answer is: (\w)"}),
    (0, "exact", "B", {"expected": "B", "pattern": r"answer is: (\w)"}),
    (1, "exact", '{"label": "spam"}', {"expected": "spam", "field": "label"}),
    (1, "one_of", "two", {"expected": ["one", "two"]}),
    (0, "one_of", "three", {"expected": ["one", "two"]}),
    (1, "one_of", "2", {"expected": [1, 2]}),
    (1, "one_of", "two", {"expected": '["one", "two"]'}),
    (1, "one_of", "[a", {"expected": "[a"}),
    (1, "contains", "It is Paris, in France.", {"expected": ["Paris", "France"]}),
    (0, "contains", "It is Paris.", {"expected": ["Paris", "France"]}),
    (1, "regex", "id 0042", {"pattern": r"\d{4}"}),
    (0, "regex", "id 42", {"pattern": r"\d{4}"}),
    (1, "regex", "OK", {"pattern": "ok", "ignore_case": True}),
    (1, "number", "So 3 + 4 = 7, the answer is 7.", {"expected": "7"}),
    (0, "number", "The answer is 7, of 10.", {"expected": "7"}),
    (1, "number", "about $1,234.50", {"expected": 1234.5}),
    (1, "number", "18.01", {"expected": "18", "tolerance": 0.01}),
    (0, "number", "18.011", {"expected": "18", "tolerance": 0.01}),
    (1, "number", "1e6", {"expected": "1000000"}),
    (1, "number", "−5", {"expected": -5}),
    (1, "number", "101", {"expected": 100, "relative_tolerance": 0.01}),
    (0, "number", "102", {"expected": 100, "relative_tolerance": 0.01}),
    (0, "number", "no number", {"expected": "7"}),
    (0, "number", "7", {"expected": "no number"}),
    (1, "number", "#### 72 (of 80)", {"expected": "steps #### 72", "pattern": r"#### (\S+)"}),
    (1, "json", '{"a": {"b": [1, 2.0]}}', {"expected": 2, "field": "a.b.1"}),
    (1, "json", 'Sure:\n```json\n{"x": "Yes "}\n```', {"expected": "yes", "field": "x", "ignore_case": True}),
    (1, "json", 'Here: {"x": true} as asked', {"expected": True, "field": "x"}),
    (0, "json", '{"x": 1}', {"expected": True, "field": "x"}),
    (0, "json", '{"x": 1}', {"expected": 1, "field": "y"}),
    (0, "json", "no json", {"expected": 1, "field": "x"}),
    (1, "json", '{"x": 0.3}', {"expected": 0.31, "field": "x", "tolerance": 0.01}),
    (1, "json", '{"b": 1, "a": [2]}', {"expected": {"a": [2], "b": 1}}),
    (1, "json", '{"b": 1, "a": [2]}', {"expected": '{"a": [2], "b": 1}'}),
]


@pytest.mark.parametrize(("expected", "grader", "text", "keys"), CASES)
def test_what_a_reply_scores(expected, grader, text, keys):
    """Each grader, with its options, gives 1 to what is right and 0 to what is not."""
    assert expected == score(grader, text, **keys)


@pytest.mark.parametrize("grader", ["exact", "one_of", "contains", "number", "json"])
def test_what_is_right_comes_from_the_row(grader):
    """`expected` is a template over the row's columns; a row where it is null has no score, which is not 0."""
    keys = {"expected": "{{ gold }}"}
    assert 1 == score(grader, "17", {"gold": "17"}, **keys)
    assert 0 == score(grader, "18", {"gold": "17"}, **keys)
    assert score(grader, "17", {"gold": None}, **keys) is None


@pytest.mark.parametrize(
    ("grader", "keys"), [("exact", {"expected": ""}), ("regex", {"pattern": "a"}), ("number", {"expected": 1})]
)
@pytest.mark.parametrize("text", [None, "", " \n\t"])
def test_an_answer_that_is_missing_is_not_right(grader, keys, text):
    """Null, empty and blank are one, also where nothing is expected to be written."""
    assert 0.0 == score(grader, text, **keys)


@pytest.mark.parametrize("text", [None, "", "4"])
def test_where_nothing_is_expected_nothing_is_scored(text):
    """A row without a right answer says nothing about a missing one either."""
    assert score("exact", text, {"gold": None}, expected="{{ gold }}") is None


@pytest.mark.parametrize("text", [None, "", " "])
def test_no_function_is_asked_about_an_answer_that_is_missing(text):
    """It would have to guard against null itself, and call silence polite."""
    assert 0.0 == python_score(lambda text: 1.0, text)


def test_output_goes_before_the_text():
    """Where there is an output_schema, its value is graded: the text may have been repaired or fenced."""
    assert 1 == score("json", "raw", output={"label": "spam"}, expected="spam", field="label")
    assert 1 == score("exact", "raw", output={"label": "spam"}, expected="spam", field="label")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
@settings(max_examples=100, deadline=None)
def test_a_number_is_found_however_it_is_written(number):
    """Plain, grouped, in a sentence, in bold, with a currency: the same number."""
    for text in (
        f"{number:f}",
        f"{number:,f}",
        f"It was 3, now it is {number:,f}.",
        f"**{number:f}**",
        f"${number:f}",
    ):
        assert number == last_number(text), text


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_reply_can_be_graded(text):
    """No reply makes a grader fail, and every score is 0 or 1."""
    for _, grader, _, keys in CASES:
        assert score(grader, text, **keys) in (0.0, 1.0)
    verdict = read_verdict(spec("judge", model="m"), text)
    assert verdict is None or 0 <= verdict <= 1


@pytest.mark.parametrize(
    "text",
    [
        *("9" * 10**5, "1," * 10**5, "{" * 10**5, '{"a":' * 10**5, "[" * 10**5, "1e9999"),
        *("111," * 2**18 + "a1", "```json\n{" + " " * 2**20, "```json\n" + "\n \t" * 2**18),
    ],
)
def test_hostile_replies_are_read(text):
    """Endless digits, nesting and blanks end in a number or in none, soon."""
    last_number(text)
    json_value(text)
    assert 0 == score("number", text, expected=7)


def test_a_number_far_from_the_end_of_a_long_text_is_found():
    """The end is searched first, then the whole."""
    assert 7 == last_number("It is 7 " + "and so on " * 1_000)
    assert 8 == last_number("It is 7 " + "and so on " * 1_000 + "no: 8 " + "x " * 10)


@pytest.mark.parametrize("text", ["", "text", "```\nnothing\n```", "{broken", "[1, 2"])
def test_text_without_json(text):
    """Nothing found is not null."""
    assert json_value(text) is ABSENT


# --- python ------------------------------------------------------------------------------------------------------


def python_score(function: Any, text: str | None = "hello", row: Any = None, **keys: Any) -> float | None:
    return grade(spec("python", function="m:f", **keys), row or {}, text, None, render=render, function=function)


def test_a_function_takes_what_it_names():
    """Any of text, row, output, expected, by name; truth values and numbers are scores, None is none."""
    assert 1.0 == python_score(lambda text: text == "hello")
    assert 0.25 == python_score(lambda row, text: row["share"], row={"share": 0.25})
    assert 1.0 == python_score(lambda expected, **rest: expected == "7" and rest["text"] == "hello", expected="7")
    assert python_score(lambda text: None) is None
    assert python_score(lambda text: 1, row={"gold": None}, expected="{{ gold }}") is None


@pytest.mark.parametrize("function", [lambda reply: 1, lambda: 1, lambda text, more: 1, lambda text, /: 1])
def test_a_function_that_asks_for_more_is_refused_before_the_run(function):
    """Its parameters are looked at once, when it is compiled."""
    with pytest.raises(ValueError, match="text, row, output, expected"):
        compile_grader(spec("python", function="m:f"), render=render, function=function)


@pytest.mark.parametrize("result", [1.5, -0.1, "1", [1], float("nan")])
def test_a_function_that_gives_no_score(result):
    """Only numbers from 0 to 1 are scores."""
    with pytest.raises(GradingFailed, match="score right: the function gave"):
        python_score(lambda text: result)


def test_a_function_that_raises():
    """The grader is named, and the cause kept."""
    with pytest.raises(GradingFailed, match="score right: KeyError: 'gold'") as caught:
        python_score(lambda row: row["gold"])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_function_beside_the_job_file(tmp_path):
    """A module of the job's folder, or any that can be imported."""
    (tmp_path / "my_graders.py").write_text("def short(text):\n    return len(text) < 9\n")
    assert 1.0 == python_score(load_function("my_graders:short", base_dir=tmp_path, key="score[0].function"))
    assert callable(load_function("os.path:exists", base_dir=tmp_path, key="k"))


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("my_graders:long", "no function long"),
        ("nowhere:f", "cannot be imported"),
        ("broken:f", "ZeroDivisionError"),
    ],
)
def test_a_function_that_is_not_there(tmp_path, reference, says):
    """The mistake names the place in the job."""
    (tmp_path / "my_graders.py").write_text("short = len\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=says) as caught:
        load_function(reference, base_dir=tmp_path, source="job.yaml", key="score[0].function")
    assert ("job.yaml", "score[0].function") == (caught.value.mistakes[0].file, caught.value.mistakes[0].key)


# --- judge -------------------------------------------------------------------------------------------------------

VERDICTS = [
    (0.8, '{"score": 0.8, "reason": "close"}', {}),
    (0.0, '```json\n{"reason": "...", "score": 0}\n```', {}),
    (1.0, '{"correct": true}', {}),
    (0.8, '{"verdict": "8/10"}', {}),
    (1.0, "Correct.", {}),
    (0.0, "**incorrect**", {}),
    (0.0, "no", {}),
    (0.75, "0.75", {}),
    (0.8, "80 %", {}),
    (0.7, "The steps are right but one. Score: 7/10", {}),
    (1.0, "It does what was asked. Verdict: correct", {}),
    (None, "8", {}),
    (None, "I cannot judge this 1 answer.", {}),
    (None, "", {}),
    (None, None, {}),
    (None, '{"score": null}', {}),
    (0.5, "3", {"scale": [1, 5]}),
    (None, "0", {"scale": [1, 5]}),
    (0.5, '{"grade": "partly"}', {"labels": {"good": 1, "partly": 0.5}}),
    (1.0, "GOOD", {"labels": {"good": 1, "partly": 0.5}}),
    (None, "correct", {"labels": {"good": 1, "partly": 0.5}}),
    (0.3, '{"result": {"points": 0.3}, "score": 1}', {"field": "result.points"}),
]


@pytest.mark.parametrize(("expected", "text", "keys"), VERDICTS)
def test_a_verdict_is_read_leniently(expected, text, keys):
    """In JSON, fenced, as a word, a share, a label; what says nothing clear is no verdict, never a 0."""
    assert expected == read_verdict(spec("judge", model="m", **keys), text)


def test_the_default_question_carries_the_material():
    """Request, expected and answer stand between tags; the form of the answer is asked for."""
    judge = spec("judge", model="m", expected="{{ gold }}")
    system, user = judge_messages(judge, {"gold": "42"}, "It is 42.", None, render=render, request="6 x 7?") or ()
    assert "number from 0 (wrong) to 1 (right)" in system["content"]
    for part in ("<request>\n6 x 7?", "<expected>\n42", "<answer>\nIt is 42."):
        assert part in user["content"]
    assert judge_messages(judge, {"gold": None}, "It is 42.", None, render=render) is None


def test_an_own_question_sees_row_and_reply():
    """The judge's templates name columns, output_text, expected, request."""
    judge = spec("judge", model="m", prompt={"user": "{{ lang }}: {{ output_text }} / {{ request }}"})
    assert ({"role": "user", "content": "de: ja / gut?"},) == judge_messages(
        judge, {"lang": "de"}, "ja", None, render=render, request="gut?"
    )


def test_the_default_schema_fits_what_is_read():
    """What the schema asks for is what the reading understands."""
    labelled = spec("judge", model="m", labels={"good": 1, "bad": 0})
    assert ["good", "bad"] == verdict_schema(labelled)["properties"]["verdict"]["enum"]
    assert 1.0 == read_verdict(labelled, '{"reason": "", "verdict": "good"}')
    assert 5 == verdict_schema(spec("judge", model="m", scale=[1, 5]))["properties"]["score"]["maximum"]


def test_a_judge_is_not_computed():
    """A judge needs a request; nobody gets a silent 0 for it."""
    with pytest.raises(ValueError, match="not computed from a reply"):
        score("judge", "text", model="m")


# --- the keys of graders -----------------------------------------------------------------------------------------

SMALLEST = {"expected": "x", "pattern": "x", "function": "m:f", "model": "m"}


@pytest.mark.parametrize("kind", GRADERS)
def test_a_grader_with_what_it_needs_is_allowed(kind):
    """And without any one of its needs it is not."""
    needs = {key: SMALLEST[key] for key in GRADERS[kind].needs}
    one = {"name": "a", "grader": kind, **needs}
    assert [] == list(grader_mistakes([one]))
    for key in needs:
        found = list(grader_mistakes([{**one, key: None}]))
        assert [(("score", 0, key), f"is missing: the grader {kind} needs it")] == found


@pytest.mark.parametrize(
    ("keys", "at", "says"),
    [
        ({"grader": "exact", "expected": "x", "tolerance": 1}, "tolerance", "does not go with the grader exact"),
        ({"grader": "exact", "expected": ["x"]}, "expected", "must be a text or a number"),
        ({"grader": "regex", "pattern": "x", "expected": "x"}, "expected", "does not go with the grader regex"),
        ({"grader": "judge", "model": "m", "labels": {"a": 1}, "scale": [0, 5]}, "scale", "beside labels"),
        ({"grader": "exact", "expected": "x", "name": "A"}, "name", "used twice"),
    ],
)
def test_keys_that_do_not_go_together(keys, at, says):
    """The place is the key, the words name the grader."""
    first = {"name": "a", "grader": "regex", "pattern": "x"}
    ((path, message),) = grader_mistakes([first, {"name": "b", **keys}])
    assert ("score", 1, at) == path
    assert says in message


def test_specs_are_what_graders_read():
    """The model of the job file has every attribute that a grader looks at."""
    with pytest.raises(AttributeError):
        grade(SimpleNamespace(grader="exact", expected="x"), {}, "x", None, render=render)  # type: ignore[arg-type]
    assert 1.0 == grade(spec("exact", expected="x"), {}, "x", None, render=render)
