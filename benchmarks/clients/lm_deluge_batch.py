"""lm-deluge on uvloop, its batch call without limits per minute and without its display; results in memory."""

from __future__ import annotations

import asyncio
import os

import uvloop
from measure import MAX_OUTPUT_TOKENS, MODEL, Measured

os.environ["BENCH_KEY"] = "sk-none"

from lm_deluge import Conversation, LLMClient
from lm_deluge.models import register_model


async def main() -> None:
    measured = Measured()
    arguments = measured.arguments
    conversations = [
        Conversation().system(system["content"]).user(user["content"]) for system, user in measured.prompts()
    ]
    register_model(id="bench", name=MODEL, api_base=arguments.base_url, api_key_env_var="BENCH_KEY")
    client = LLMClient(
        "bench",
        max_requests_per_minute=10**9,
        max_tokens_per_minute=10**12,
        max_concurrent_requests=arguments.in_flight,
        max_new_tokens=MAX_OUTPUT_TOKENS,
        request_timeout=600,
    )
    with measured.sending():
        replies = await client.process_prompts_async(conversations, show_progress=False)
    if not all(reply and reply.completion for reply in replies):
        raise RuntimeError("not every row was answered")


asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(main())
