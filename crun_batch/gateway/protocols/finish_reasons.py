"""Why a model stopped: every provider's word, one meaning each, one table for all protocols.

One table because gateways that translate leave the other protocol's word in. Adding a word is adding a line;
docs/answers.md is made from it. Spelling is no part of a word: `MAX_TOKENS`, `max-tokens`, `maxTokens` and
`FinishReason.MAX_TOKENS` are one. Of several words the last that is listed counts: Gemini's OpenAI endpoint says
`function_call_filter: MALFORMED_FUNCTION_CALL` and `content_filter: RECITATION`.

Sources, by the names used below: the public API references of OpenAI (chat, responses), Anthropic (stop_reason),
Google (Gemini `FinishReason`), Mistral, DeepSeek, Z.AI, Cohere, Amazon Bedrock (Converse, Titan, AI21),
OpenRouter, IBM watsonx, Vercel's AI SDK; the public sources of vLLM, SGLang, llama.cpp, Ollama, TGI, TensorRT-LLM.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from crun_batch.records import FinishReason

FinishMeaning = Literal["stop", "length", "tool_calls", "content_filter", "cut", "malformed"]
"""The contract's words, and two for what is no answer: the provider broke off (`cut`), or the model wrote what the
provider could not read (`malformed`)."""

REASON_OF_MEANING: dict[FinishMeaning, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "cut": "other",
    "malformed": "other",
}


class FinishWord(Struct, frozen=True):
    """One word, in our spelling: lower case, words joined by `_`."""

    word: str
    meaning: FinishMeaning
    said_by: str


FINISH_WORDS: tuple[FinishWord, ...] = (
    FinishWord("stop", "stop", "OpenAI, Azure, Gemini, Mistral, DeepSeek, vLLM, SGLang, llama.cpp, OpenRouter"),
    FinishWord("completed", "stop", "OpenAI responses"),
    FinishWord("end_turn", "stop", "Anthropic, Bedrock"),
    FinishWord("stop_sequence", "stop", "Anthropic, Bedrock, Cohere, TGI"),
    FinishWord("complete", "stop", "Cohere"),
    FinishWord("finish", "stop", "Bedrock (Titan)"),
    FinishWord("finished", "stop", "Bedrock (Titan)"),
    FinishWord("eos", "stop", "Together, llama.cpp (old)"),
    FinishWord("eos_token", "stop", "TGI, watsonx"),
    FinishWord("end_id", "stop", "TensorRT-LLM"),
    FinishWord("stop_words", "stop", "TensorRT-LLM"),
    FinishWord("stop_criteria_met", "stop", "Bedrock (Titan)"),
    FinishWord("endoftext", "stop", "Bedrock (AI21)"),
    FinishWord("length", "length", "OpenAI, Azure, Mistral, DeepSeek, vLLM, SGLang, llama.cpp, TGI, OpenRouter"),
    FinishWord("max_tokens", "length", "Anthropic, Gemini, Bedrock, Cohere, watsonx"),
    FinishWord("max_output_tokens", "length", "OpenAI responses"),
    FinishWord("max_completion_tokens", "length", "gateways that name the parameter"),
    FinishWord("model_length", "length", "Mistral"),
    FinishWord("token_limit", "length", "watsonx"),
    FinishWord("limit", "length", "llama.cpp (old)"),
    FinishWord("error_limit", "length", "Cohere"),
    FinishWord("model_context_window_exceeded", "length", "Anthropic, Bedrock, Z.AI"),
    FinishWord("not_finished", "length", "watsonx: the turn is not over"),
    FinishWord("repetition", "length", "vLLM, which ends an answer that repeats itself"),
    FinishWord("pause_turn", "length", "Anthropic: the turn is not over"),
    FinishWord("compaction", "length", "Anthropic: the turn is not over"),
    FinishWord(
        "tool_calls", "tool_calls", "OpenAI, Azure, Mistral, DeepSeek, vLLM, SGLang, llama.cpp, OpenRouter"
    ),
    FinishWord("tool_call", "tool_calls", "Cohere"),
    FinishWord("tool_use", "tool_calls", "Anthropic, Bedrock"),
    FinishWord("function_call", "tool_calls", "OpenAI (deprecated)"),
    FinishWord("content_filter", "content_filter", "OpenAI, Azure, DeepSeek, OpenRouter"),
    FinishWord("content_filtered", "content_filter", "Bedrock"),
    FinishWord("guardrail_intervened", "content_filter", "Bedrock"),
    FinishWord("refusal", "content_filter", "Anthropic"),
    FinishWord("sensitive", "content_filter", "Z.AI"),
    FinishWord("error_toxic", "content_filter", "Cohere"),
    FinishWord("safety", "content_filter", "Gemini"),
    FinishWord("recitation", "content_filter", "Gemini"),
    FinishWord("language", "content_filter", "Gemini"),
    FinishWord("blocklist", "content_filter", "Gemini"),
    FinishWord("prohibited_content", "content_filter", "Gemini"),
    FinishWord("spii", "content_filter", "Gemini"),
    FinishWord("model_armor", "content_filter", "Gemini"),
    FinishWord("image_safety", "content_filter", "Gemini"),
    FinishWord("image_recitation", "content_filter", "Gemini"),
    FinishWord("image_prohibited_content", "content_filter", "Gemini"),
    FinishWord("insufficient_system_resource", "cut", "DeepSeek"),
    FinishWord("network_error", "cut", "Z.AI"),
    FinishWord("abort", "cut", "vLLM, SGLang"),
    FinishWord("aborted", "cut", "gateways in front of vLLM"),
    FinishWord("cancelled", "cut", "TensorRT-LLM, watsonx"),
    FinishWord("canceled", "cut", "the same in American spelling"),
    FinishWord("user_cancel", "cut", "Cohere"),
    FinishWord("timeout", "cut", "Cohere, TensorRT-LLM"),
    FinishWord("time_limit", "cut", "watsonx"),
    FinishWord("error", "cut", "OpenRouter, Mistral, vLLM, Cohere, watsonx, Vercel's AI SDK"),
    FinishWord("unload", "cut", "Ollama, which gave the model's memory back"),
    FinishWord("malformed_function_call", "malformed", "Gemini"),
    FinishWord("malformed_response", "malformed", "Gemini"),
    FinishWord("missing_thought_signature", "malformed", "Gemini"),
    FinishWord("unexpected_tool_call", "malformed", "Gemini"),
    FinishWord("too_many_tool_calls", "malformed", "Gemini"),
    FinishWord("malformed_model_output", "malformed", "Bedrock"),
    FinishWord("malformed_tool_use", "malformed", "Bedrock"),
)

_MEANINGS: dict[str, FinishMeaning] = {line.word: line.meaning for line in FINISH_WORDS}
_LONGEST_WORD = 80
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_JOINTS = re.compile(r"[\s\-]+")
_BEFORE_A_WORD = re.compile(r"[.:]\s*")


def finish_meaning(said: str) -> FinishMeaning | None:
    """What a provider's word means; None for a word that nobody listed."""
    meaning = _MEANINGS.get(said)
    if meaning is not None or len(said) > _LONGEST_WORD:
        return meaning
    parts = reversed(_BEFORE_A_WORD.split(said.strip()))
    words = (_JOINTS.sub("_", _HUMP.sub("_", part)).lower().removeprefix("finish_reason_") for part in parts)
    return next((_MEANINGS[word] for word in words if word in _MEANINGS), None)
