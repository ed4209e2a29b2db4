"""The official SDKs of OpenAI and Anthropic take the simulated gateway for the real thing, streamed and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from sdk_kit import SDK_KEY, anthropic_client, openai_client

from crun_batch.simulator import Settings, SimulatorProcess

QUESTION = "How many eggs do sixteen ducks lay in a week?"
USER: Any = [{"role": "user", "content": QUESTION}]

pytestmark = pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")


class Label(pydantic.BaseModel):
    """A structured answer."""

    label: str
    score: int


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Settings(tokenizer="words")) as simulator:
        yield simulator


@pytest.fixture(params=["crun", "openai"])
def client(simulator: SimulatorProcess, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    simulator.change(stream_style=request.param)
    with openai_client(simulator) as client:
        yield client


@pytest.fixture
def claude(simulator: SimulatorProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(simulator) as client:
        yield client


def charged(simulator: SimulatorProcess) -> dict[str, Any]:
    """What the ledger says of the last request."""
    entries = simulator.ledger(entries=True)["entries"]
    return dict(entries[-1])


def test_openai_lists_models(client: openai.OpenAI) -> None:
    """`models.list()` reads CRUN's list."""
    assert "gpt-5.4" in [model.id for model in client.models.list()]


def test_openai_chat(client: openai.OpenAI, simulator: SimulatorProcess) -> None:
    """Text, finish reason and usage; usage is what the ledger charged."""
    reply = client.chat.completions.create(model="gpt-5.4", messages=USER)
    assert reply.choices[0].message.content
    assert "stop" == reply.choices[0].finish_reason
    entry = charged(simulator)
    assert reply.usage is not None
    assert (entry["input_tokens"], entry["output_tokens"]) == (
        reply.usage.prompt_tokens,
        reply.usage.completion_tokens,
    )
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_openai_chat_streamed(client: openai.OpenAI) -> None:
    """The stream adds up to the unstreamed reply, usage included, in CRUN's and in OpenAI's way of streaming."""
    whole = client.chat.completions.create(model="gpt-5.4", messages=USER)
    chunks = [
        *client.chat.completions.create(
            model="gpt-5.4", messages=USER, stream=True, stream_options={"include_usage": True}
        )
    ]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(pieces) > 3
    assert whole.choices[0].message.content == "".join(pieces)
    assert [whole.usage] == [chunk.usage for chunk in chunks if chunk.usage]
    with client.chat.completions.stream(model="gpt-5.4", messages=USER) as stream:
        final = stream.get_final_completion()
    assert whole.choices[0].message.content == final.choices[0].message.content


def test_openai_chat_structured_and_tools(client: openai.OpenAI) -> None:
    """`parse` gives the model back; a forced tool is called, streamed or not."""
    parsed = client.chat.completions.parse(model="gpt-5.4", messages=USER, response_format=Label)
    assert isinstance(parsed.choices[0].message.parsed, Label)
    tool: Any = openai.pydantic_function_tool(Label, name="note")
    choice: Any = {"type": "function", "function": {"name": "note"}}
    called = client.chat.completions.create(model="gpt-5.4", messages=USER, tools=[tool], tool_choice=choice)
    calls: Any = called.choices[0].message.tool_calls
    assert "tool_calls" == called.choices[0].finish_reason
    Label.model_validate_json(calls[0].function.arguments)
    chunks = client.chat.completions.create(
        model="gpt-5.4", messages=USER, tools=[tool], tool_choice=choice, stream=True
    )
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert "note" == deltas[0].function.name
    assert calls[0].function.arguments == "".join(delta.function.arguments for delta in deltas)


def test_openai_responses(client: openai.OpenAI, simulator: SimulatorProcess) -> None:
    """Text and usage, a conversation that goes on, and a structured answer."""
    reply = client.responses.create(model="gpt-5.4", input=QUESTION, instructions="Be brief.")
    assert ("completed", True) == (reply.status, bool(reply.output_text))
    entry = charged(simulator)
    assert reply.usage is not None
    assert (entry["input_tokens"], entry["output_tokens"]) == (reply.usage.input_tokens, reply.usage.output_tokens)
    later = client.responses.create(model="gpt-5.4", input="And in a month?", previous_response_id=reply.id)
    assert later.usage is not None
    assert later.usage.input_tokens > reply.usage.input_tokens
    assert isinstance(
        client.responses.parse(model="gpt-5.4", input=QUESTION, text_format=Label).output_parsed, Label
    )


def test_openai_responses_streamed(client: openai.OpenAI) -> None:
    """Named events, numbered, whose deltas add up to the reply in the last one; also for a tool call."""
    whole = client.responses.create(model="gpt-5.4", input=QUESTION)
    events: list[Any] = [*client.responses.create(model="gpt-5.4", input=QUESTION, stream=True)]
    assert [*range(len(events))] == [event.sequence_number for event in events]
    assert ("response.created", "response.completed") == (events[0].type, events[-1].type)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert whole.output_text == "".join(deltas) == events[-1].response.output_text
    assert whole.usage == events[-1].response.usage
    with client.responses.stream(model="gpt-5.4", input=QUESTION, max_output_tokens=5) as stream:
        assert "response.incomplete" == [*stream][-1].type
    tool: Any = {"type": "function", "name": "note", "parameters": Label.model_json_schema(), "strict": True}
    with client.responses.stream(model="gpt-5.4", input=QUESTION, tools=[tool], tool_choice="required") as stream:
        final: Any = stream.get_final_response()
    Label.model_validate_json(final.output[0].arguments)


def test_openai_completions(client: openai.OpenAI) -> None:
    """The old endpoint; cut by max_tokens it says `length`."""
    reply = client.completions.create(model="gpt-5.4", prompt=QUESTION, max_tokens=5)
    assert ("length", True) == (reply.choices[0].finish_reason, bool(reply.choices[0].text))
    assert reply.usage is not None
    assert 5 == reply.usage.completion_tokens


def test_openai_asynchronous(simulator: SimulatorProcess) -> None:
    """The asynchronous client, many at once."""

    async def main() -> list[str | None]:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=simulator.base_url, api_key=SDK_KEY, max_retries=0, http_client=http_client
        ) as client:
            asks = [
                client.chat.completions.create(model="gpt-5.4", messages=[{"role": "user", "content": f"{n}"}])
                for n in range(20)
            ]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*asks)]

    texts = asyncio.run(main())
    assert 20 == len(set(texts))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", openai.BadRequestError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("reset_after", openai.APIConnectionError),
    ],
)
def test_openai_errors(client: openai.OpenAI, fault: str, error: type[Exception]) -> None:
    """Faults arrive as the SDK's own exceptions."""
    with pytest.raises(error):
        client.chat.completions.create(
            model="gpt-5.4", messages=[{"role": "user", "content": f"[[fault:{fault}*always]]"}]
        )


def test_openai_refusals(client: openai.OpenAI, simulator: SimulatorProcess) -> None:
    """Unknown model, wrong key, no credit."""
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=USER)
    assert "model_not_found" == unknown.value.code
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model="gpt-5.4", messages=USER)
    simulator.change(balance_credits=0, out_of_credit="openai")
    with pytest.raises(openai.RateLimitError) as broke:
        client.chat.completions.create(model="gpt-5.4", messages=USER)
    assert "insufficient_quota" == broke.value.code
    simulator.change(balance_credits=1000)


def test_anthropic_messages(claude: anthropic.Anthropic, simulator: SimulatorProcess) -> None:
    """Text, stop reason and usage; usage is what the ledger charged."""
    reply: Any = claude.messages.create(
        model="claude-sonnet-4-5", max_tokens=500, messages=USER, system="Be brief."
    )
    assert ("text", "end_turn", True) == (reply.content[0].type, reply.stop_reason, bool(reply.content[0].text))
    entry = charged(simulator)
    assert (entry["input_tokens"], entry["output_tokens"]) == (reply.usage.input_tokens, reply.usage.output_tokens)
    cut = claude.messages.create(model="claude-sonnet-4-5", max_tokens=5, messages=USER)
    assert ("max_tokens", 5) == (cut.stop_reason, cut.usage.output_tokens)


def test_anthropic_messages_streamed(claude: anthropic.Anthropic) -> None:
    """The events add up to the unstreamed message, usage included."""
    whole: Any = claude.messages.create(model="claude-sonnet-4-5", max_tokens=500, messages=USER)
    with claude.messages.stream(model="claude-sonnet-4-5", max_tokens=500, messages=USER) as stream:
        text = "".join(stream.text_stream)
        final: Any = stream.get_final_message()
    assert whole.content[0].text == text == final.content[0].text
    assert (whole.id, whole.stop_reason) == (final.id, final.stop_reason)
    assert whole.usage.output_tokens == final.usage.output_tokens
    assert whole.usage.input_tokens == final.usage.input_tokens
    raw = [*claude.messages.create(model="claude-sonnet-4-5", max_tokens=500, messages=USER, stream=True)]
    assert ("message_start", "message_stop") == (raw[0].type, raw[-1].type)


def test_anthropic_tools(claude: anthropic.Anthropic) -> None:
    """One forced tool, streamed and not, and the conversation that goes on with its result."""
    tools: Any = [{"name": "note", "input_schema": Label.model_json_schema()}]
    fields: Any = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 500,
        "tools": tools,
        "tool_choice": {"type": "tool", "name": "note"},
    }
    reply: Any = claude.messages.create(messages=USER, **fields)
    call = reply.content[0]
    assert ("tool_use", "tool_use", "note") == (reply.stop_reason, call.type, call.name)
    Label.model_validate(call.input)
    with claude.messages.stream(messages=USER, **fields) as stream:
        streamed: Any = stream.get_final_message()
    assert call.input == streamed.content[0].input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps({"noted": True})}
    turns: Any = [
        *USER,
        {"role": "assistant", "content": [call.model_dump()]},
        {"role": "user", "content": [result]},
    ]
    later: Any = claude.messages.create(model="claude-sonnet-4-5", max_tokens=500, tools=tools, messages=turns)
    assert "text" == later.content[0].type
    assert later.usage.input_tokens > reply.usage.input_tokens


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", anthropic.RateLimitError),
        ("529", anthropic.InternalServerError),
        ("close", anthropic.APIConnectionError),
    ],
)
def test_anthropic_errors(claude: anthropic.Anthropic, fault: str, error: type[Exception]) -> None:
    """Faults arrive as the SDK's own exceptions."""
    with pytest.raises(error):
        claude.messages.create(
            model="claude-sonnet-4-5",
            max_tokens=5,
            messages=[{"role": "user", "content": f"[[fault:{fault}*always]]"}],
        )
