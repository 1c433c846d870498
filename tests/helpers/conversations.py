"""Conversations over a hub of Halvers, in virtual time and without a network."""

import asyncio

import numpy as np

from clearline.config import GenerationConfig
from clearline.server.conversation import Ended, Reply
from helpers.serving import FRAME, hub
from helpers.virtual import run_virtual


def frames(count: int) -> np.ndarray:
    return np.arange(count * FRAME, dtype=np.float32) / (count * FRAME)


def encode(pcm: np.ndarray) -> bytes:
    return pcm.astype(np.float32).tobytes()


async def everything(conversation) -> tuple[list[Reply], Ended]:
    replies = []
    while not isinstance(news := await conversation.news(), Ended):
        replies.append(news)
    return replies, news


def run(scenario, **keywords):
    """Run `await scenario(hub)` on a fresh hub."""

    async def inside(loop):
        made = hub(loop=loop, **keywords)
        try:
            return await scenario(made)
        finally:
            made.shut_down()

    return run_virtual(inside)


async def opened(made, seed: int = 0, model: str | None = None):
    return await made.open(made.offer(model), GenerationConfig(seed=seed), encode, "test")


async def speak(conversation, count: int, delay: float = 0.0) -> None:
    """`count` frames in real time, after `delay` seconds; what is answered is read."""
    await asyncio.sleep(delay)
    reading = asyncio.create_task(everything(conversation))
    for frame in frames(count).reshape(-1, FRAME):
        await conversation.hear(frame)
        await asyncio.sleep(0.08)
    conversation.end_input()
    await reading
