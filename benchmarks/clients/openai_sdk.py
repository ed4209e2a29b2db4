"""The openai SDK on uvloop, workers that ask and keep the text in memory."""

from __future__ import annotations

import asyncio

import uvloop
from measure import MAX_OUTPUT_TOKENS, MODEL, Measured
from openai import AsyncOpenAI


async def main() -> None:
    measured = Measured()
    arguments = measured.arguments
    prompts = iter(enumerate(measured.prompts()))
    texts: list[str | None] = [None] * arguments.rows

    async def work(client: AsyncOpenAI) -> None:
        for row, messages in prompts:
            completion = await client.chat.completions.create(
                model=MODEL, messages=messages, max_completion_tokens=MAX_OUTPUT_TOKENS
            )
            texts[row] = completion.choices[0].message.content

    async with AsyncOpenAI(base_url=arguments.base_url, api_key="sk-none", timeout=600, max_retries=0) as client:
        with measured.sending():
            await asyncio.gather(*(work(client) for _ in range(arguments.in_flight)))
    if None in texts:
        raise RuntimeError("not every row was answered")


uvloop.run(main())
