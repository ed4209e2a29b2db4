"""Laws of the simulated gateway's answers: they depend on the request only, and are counted as they are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_kit import BODIES, CHAT, QUESTION, chat, gateway, send, text_of

from crun_batch.simulator import Settings
from crun_batch.simulator.answers import answer, input_tokens
from crun_batch.simulator.asks import Ask
from crun_batch.simulator.instances import instance
from crun_batch.simulator.tokens import load_tokenizer


@given(st.text(), st.integers(0, 50))
@settings(deadline=None, max_examples=200)
def test_words_count_no_more_tokens_than_bytes_and_cut_what_they_count(text: str, tokens: int) -> None:
    """UTF-8 bytes bound the tokens; a cut text is a beginning of the text with so many tokens at most."""
    tokenizer = load_tokenizer("words")
    cut = tokenizer.cut(text, tokens)
    assert tokenizer.count(text) <= len(text.encode())
    assert text.startswith(cut)
    assert min(tokens, tokenizer.count(text)) == tokenizer.count(cut)
    assert text == tokenizer.cut(text, tokenizer.count(text))


def tokenizers() -> list[str]:
    return ["words"] if load_tokenizer("auto").name == "words" else ["words", "o200k"]


@given(st.text(), st.integers(1, 200), st.sampled_from(["auto", "echo", "number"]))
@settings(deadline=None, max_examples=30)
def test_the_tokens_charged_are_the_tokens_of_the_text(text: str, limit: int, style: Any) -> None:
    """Counting an answer piece by piece gives what counting it whole gives, with every tokenizer."""
    ask = Ask(model="gpt-5.4", messages=(("user", text),), max_output_tokens=limit)
    for name in tokenizers():
        said = answer(ask, Settings(answer_style=style), load_tokenizer(name))
        assert said.usage.output_tokens <= limit
        if said.finish == "stop":
            assert load_tokenizer(name).count(said.text) == said.usage.output_tokens
        else:
            assert limit == said.usage.output_tokens


@pytest.mark.parametrize("word", ["x", "word ", "a b  c\n"])
def test_a_text_of_any_length_is_counted_and_cut(word: str) -> None:
    """A text of more characters than bpe-openai takes at once has the tokens of its parts."""
    part, times = word * (400_000 // len(word)), 5
    for name in tokenizers():
        tokenizer = load_tokenizer(name)
        assert tokenizer.count(part * times) == pytest.approx(times * tokenizer.count(part), abs=2 * times)
        assert part.startswith(tokenizer.cut(part * times, 10))


def test_the_input_is_counted_as_documented() -> None:
    """3 for the reply, 4 for each message, 85 for each image, and the texts' own; a prompt has its own only."""
    tokenizer = load_tokenizer("words")
    own = tokenizer.count("be brief") + tokenizer.count(QUESTION)
    messages = (("system", "be brief"), ("user", QUESTION))
    assert 3 + 2 * 4 + 85 + own == input_tokens(Ask(model="m", messages=messages, images=1), tokenizer)
    assert tokenizer.count(QUESTION) == input_tokens(Ask(model="m", messages=(("prompt", QUESTION),)), tokenizer)


@pytest.mark.parametrize("path", BODIES)
def test_the_same_request_has_the_same_reply(path: str) -> None:
    """Neither time nor order shows in a reply: two gateways give the same one, before and after others."""
    first, second = gateway(), gateway()
    send(second, CHAT, chat("something else"))
    assert send(first, path, BODIES[path]) == send(second, path, BODIES[path]) == send(first, path, BODIES[path])


def test_every_protocol_gives_the_same_answer_with_the_same_output_tokens() -> None:
    """Who asks the same question by another protocol gets the same text."""
    replies = {path: send(gateway(), path, body)[2] for path, body in BODIES.items()}
    assert 1 == len({text_of(path, reply) for path, reply in replies.items()})
    names = {"/responses": "output_tokens", "/messages": "output_tokens"}
    assert 1 == len({reply["usage"][names.get(path, "completion_tokens")] for path, reply in replies.items()})


@given(st.text(min_size=1), st.text(min_size=1))
@settings(deadline=None, max_examples=50)
def test_another_question_has_another_answer(first: str, second: str) -> None:
    """Answers depend on the content of the request."""
    asks = [Ask(model="gpt-5.4", messages=(("user", text),)) for text in (first, second)]
    said = [answer(ask, Settings(), load_tokenizer("words")) for ask in asks]
    assert (first == second) == (said[0].id == said[1].id)
    assert first != second or said[0].text == said[1].text


def test_seed_model_and_temperature_change_the_answer() -> None:
    """Sweeps over models and parameters see differences."""
    texts = [
        text_of(CHAT, send(gateway(), CHAT, chat(QUESTION))[2]),
        text_of(CHAT, send(gateway(seed=1), CHAT, chat(QUESTION))[2]),
        text_of(CHAT, send(gateway(), CHAT, chat(QUESTION, temperature=0.7))[2]),
        text_of(CHAT, send(gateway(), CHAT, chat(QUESTION, model="gpt-5.4-mini"))[2]),
    ]
    assert 4 == len(set(texts))


def test_lengths_follow_the_median_and_the_limit() -> None:
    """Half of the answers are longer than the median; a limit ends an answer exactly there."""
    at = gateway(output_tokens_median=60)
    lengths = [send(at, CHAT, chat(f"{n}"))[2]["usage"]["completion_tokens"] for n in range(300)]
    assert 50 <= sorted(lengths)[150] <= 70
    reply = send(at, CHAT, chat(QUESTION, max_tokens=5))[2]
    assert ("length", 5) == (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"])
    incomplete = send(at, "/responses", {"model": "gpt-5.4", "input": QUESTION, "max_output_tokens": 5})[2]
    assert ("incomplete", {"reason": "max_output_tokens"}) == (
        incomplete["status"],
        incomplete["incomplete_details"],
    )


def test_reasoning_is_output_and_counts_against_the_limit() -> None:
    """Hidden reasoning is billed; where it takes the whole limit, no text is left."""
    at = gateway(reasoning_tokens_median=100, output_tokens_sigma=0)
    usage = send(at, CHAT, chat(QUESTION))[2]["usage"]
    assert 100 == usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["completion_tokens"] > 100
    cut = send(at, CHAT, chat(QUESTION, max_tokens=80))[2]
    assert ("", 80) == (text_of(CHAT, cut), cut["usage"]["completion_tokens"])


@pytest.mark.parametrize(
    "system", ["Answer with one of: good, bad, mixed.", "Pick one of `good`, `bad` or `mixed`"]
)
def test_labels_are_taken_from_the_prompt(system: str) -> None:
    """A labelling job gets labels, and not always the same."""
    messages = [
        [{"role": "system", "content": system}, {"role": "user", "content": f"review {n}"}] for n in range(60)
    ]
    at = gateway()
    found = {text_of(CHAT, send(at, CHAT, {"model": "gpt-5.4", "messages": each})[2]) for each in messages}
    assert {"good", "bad", "mixed"} == found


def test_numbers_are_right_as_often_as_the_model_is_accurate() -> None:
    """Known questions are found on a line of their own or after a label; wrong answers are wrong."""
    questions = [f"What is {n} plus {n}?" for n in range(400)]
    gold = {hashlib.sha256(text.encode()).hexdigest(): str(2 * n) for n, text in enumerate(questions)}
    at = gateway(gold=gold, models={"m": {"accuracy": 0.75}, "sure": {}, "never": {"accuracy": 0}})

    def right(model: str) -> int:
        replies = [send(at, CHAT, chat(f"Solve it.\nQuestion: {text}", model=model))[2] for text in questions]
        answers = [text_of(CHAT, reply).rpartition("#### ")[2] for reply in replies]
        return sum(str(2 * n) == said for n, said in enumerate(answers))

    assert 400 == right("sure")
    assert 0 == right("never")
    assert 270 <= right("m") <= 330
    assert text_of(CHAT, send(at, CHAT, chat("[[gold:42]]", model="sure"))[2]).endswith("#### 42")


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"label": {"enum": ["a", "b"]}, "score": {"type": "number"}},
        "required": ["label", "score"],
    },
    {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 5}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 5, "uniqueItems": True},
    {"type": "string", "minLength": 40, "maxLength": 41},
    {"type": ["null", "boolean"]},
    {"anyOf": [{"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 9}, {"const": "x"}]},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 20},
    {"type": "integer", "maximum": -5},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"required": ["a"]}]},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            }
        },
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/node"}, "day": {"type": "string", "format": "date"}},
        "required": ["tree", "day"],
        "additionalProperties": False,
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_structured_answers_obey_the_schema(schema: dict[str, Any]) -> None:
    """Whatever the seed, an instance is valid for its schema and the same each time."""
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    for seed in map(str, range(60)):
        value = instance(schema, seed)
        validator.validate(value)
        assert value == instance(schema, seed)


def test_malformed_answers_come_as_often_as_wanted() -> None:
    """With malformed_rate 1 no answer is valid, some are not even JSON."""
    schema = SCHEMAS[0]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    at = gateway(malformed_rate=1)
    texts = [text_of(CHAT, send(at, CHAT, chat(f"{n}", response_format=wanted))[2]) for n in range(40)]

    def state(text: str) -> str:
        try:
            value = json.loads(text)
        except ValueError:
            return "no JSON"
        return "valid" if jsonschema_rs.is_valid(schema, value) else "invalid"

    assert {"no JSON", "invalid"} == {state(text) for text in texts}


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
def test_a_forced_tool_is_called_with_valid_arguments(path: str) -> None:
    """One forced tool is how Anthropic's protocol gives structured output."""
    schema, name = SCHEMAS[0], "note"
    match path:
        case "/chat/completions":
            extra = {
                "tools": [{"type": "function", "function": {"name": name, "parameters": schema}}],
                "tool_choice": "required",
            }
        case "/responses":
            extra = {"tools": [{"type": "function", "name": name, "parameters": schema}]}
            extra["tool_choice"] = {"type": "function", "name": name}
        case _:
            extra = {
                "tools": [{"name": name, "input_schema": schema}],
                "tool_choice": {"type": "tool", "name": name},
            }
    reply = send(gateway(), path, {**BODIES[path], **extra})[2]
    match path:
        case "/chat/completions":
            arguments = json.loads(reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
        case "/responses":
            arguments = json.loads(reply["output"][0]["arguments"])
        case _:
            arguments = json.loads(json.dumps(reply["content"][0]["input"], default=float))
    jsonschema_rs.validate(schema, arguments)


def test_a_conversation_goes_on_from_a_stored_response() -> None:
    """The earlier turns are part of the input; a reply that was not stored is not found."""
    at = gateway()
    first = send(at, "/responses", {"model": "gpt-5.4", "input": QUESTION, "instructions": "Be brief."})[2]
    body = {"model": "gpt-5.4", "input": "And in a month?", "previous_response_id": first["id"]}
    second = send(at, "/responses", body)[2]
    alone = send(at, "/responses", {"model": "gpt-5.4", "input": "And in a month?"})[2]
    system = 4 + load_tokenizer("words").count("Be brief.")
    turns = first["usage"]["input_tokens"] - 3 - system + 4 + first["usage"]["output_tokens"]
    assert alone["usage"]["input_tokens"] + turns == second["usage"]["input_tokens"]
    unstored = send(at, "/responses", {"model": "gpt-5.4", "input": "Not kept", "store": False})[2]
    status, _, refused = send(at, "/responses", {**body, "previous_response_id": unstored["id"]})
    assert (400, "previous_response_not_found") == (status, refused["error"]["code"])
