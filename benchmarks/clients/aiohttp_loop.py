"""The yardstick: aiohttp on uvloop, workers that send and read. It keeps nothing."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import uvloop
from measure import MAX_OUTPUT_TOKENS, MODEL, Measured


async def main() -> None:
    measured = Measured()
    arguments = measured.arguments
    prompts = iter(measured.prompts())
    url = arguments.base_url + "/chat/completions"
    headers = {"authorization": "Bearer sk-none", "content-type": "application/json"}

    async def work(session: aiohttp.ClientSession) -> None:
        for messages in prompts:
            body = json.dumps({"model": MODEL, "messages": messages, "max_completion_tokens": MAX_OUTPUT_TOKENS})
            async with session.post(url, data=body.encode(), headers=headers) as response:
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}")
                await response.read()

    connector = aiohttp.TCPConnector(limit=arguments.in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:
        with measured.sending():
            await asyncio.gather(*(work(session) for _ in range(arguments.in_flight)))


uvloop.run(main())
