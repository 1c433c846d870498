"""An hour of one conversation, against the same hour without a server: the part "soak" of benchmarks/serve.py."""

import argparse
import asyncio
import hashlib
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from serving import SECONDS, Heard, question, serving, talk


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """One conversation of `soak_minutes` of sound, as fast as the machine goes; memory once a minute of sound. Then the same
    sound without a server: every sample and every word of the replies has to be the same, and questions have to be answered at
    the end as they were at the beginning."""
    with serving(options.model, 1e6) as server:

        async def run() -> tuple[Heard, list[float]]:
            heard, sizes = Heard(), []
            task = asyncio.create_task(talk(server.address, options.soak_minutes * 60, paced=False, heard=heard))
            while not task.done():
                await asyncio.sleep(0.05)
                if heard.replies * SECONDS >= 60 * (len(sizes) + 1):
                    sizes.append(server.resident / 1e6)
                    print(f"  {len(sizes)} minutes: {sizes[-1]:.1f} MB", file=sys.stderr, flush=True)
            return await task, sizes

        started = time.perf_counter()
        heard, sizes = asyncio.run(run())
        seconds = time.perf_counter() - started
    settled = sizes[len(sizes) // 4 :]
    sound, texts, wraps = offline(options.model, heard.sent)
    return {
        "minutes_of_sound": options.soak_minutes, "whole": heard.whole, "frames": heard.replies,
        "times_real_time": round(options.soak_minutes * 60 / seconds, 1),
        "mb_after_a_quarter": round(settled[0], 1) if settled else None,
        "mb_at_the_end": round(sizes[-1], 1) if sizes else None,
        "every_sample_as_without_a_server": sound == heard.sound.hexdigest(),
        "every_word_as_without_a_server": texts == heard.texts,
        "times_the_language_models_cache_wrapped": wraps,
        "answered_as_mostly_at_first_by_quarters": " ".join(f"{share:.0%}" for share in answers(heard.texts, heard.sent)),
    }  # fmt: skip


def offline(model: str, count: int) -> tuple[str, dict[int, str], int]:
    """The same sound to a session of its own, without a server: SHA-256 of the reply as the server would send it, texts by the
    frame, and how often the keys and values of the language model went round their ring."""
    from clearline.app import load

    loaded, frames = load(model, threads=1), question()
    sound, texts = hashlib.sha256(), {}
    with loaded.session() as session:
        for number in range(count):
            frame = session.step(np.frombuffer(frames[number % len(frames)], "<i2").astype(np.float32) / 32768)
            if frame.pcm is not None:
                sound.update(np.clip(np.rint(frame.pcm * 32768), -32768, 32767).astype("<i2").tobytes())
            if frame.text:
                texts[number] = frame.text
    return sound.hexdigest(), texts, count // loaded.config.transformer.context


def answers(texts: dict[int, str], count: int) -> list[float]:
    """For each quarter of the conversation, the share of questions that got the most frequent answer of the first."""
    cycle = len(question())
    said = ["".join(texts.get(i, "") for i in range(start, start + cycle)) for start in range(0, count - cycle + 1, cycle)]
    quarters = [part.tolist() for part in np.array_split(np.array(said, object), 4)]
    usual = Counter(quarters[0]).most_common(1)[0][0] if quarters[0] else ""
    return [part.count(usual) / max(1, len(part)) for part in quarters]
