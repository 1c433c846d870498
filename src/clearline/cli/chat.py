"""`clearline chat`: a conversation in the terminal, with the machine's microphone or with a recording in real time."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.meters import Meters
from clearline.cli.options import (
    BackendOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    ThreadsOption,
    check_target,
    check_wav,
)
from clearline.cli.progress import Steps
from clearline.config import GenerationConfig
from clearline.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from clearline.app import Model
    from clearline.server.chat import Moment, Recorder
    from clearline.server.devices import Devices
    from clearline.server.hub import Hub

# Two seconds between two looks for an echo.
ECHO_FRAMES = 25


def chat(
    model: ModelOption = "nano",
    input: Annotated[Path | None, typer.Option("--input", "-i", help="Play this recording to the model; no microphone.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the reply as WAV (reply.wav with --input).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling noise.")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of an official program; `clearline presets` lists them.")] = None,
    microphone: Annotated[str | None, typer.Option(help="Number or part of the name of the input device.")] = None,
    loudspeaker: Annotated[str | None, typer.Option(help="Number or part of the name of the output device.")] = None,
    devices: Annotated[bool, typer.Option("--devices", help="List the sound devices, and do nothing else.")] = False,
    tail: Annotated[
        float | None, typer.Option(min=0, max=3600, help="Seconds of silence after --input; else until it is quiet.")
    ] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    compile: CompileOption = False,
    quantize: Annotated[str | None, typer.Option(help="q8 or q4: round the language model's weights.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Talk to the model. Enter mutes the microphone and opens it again; Ctrl-C ends the conversation."""
    from clearline.app import load
    from clearline.audio import read_audio, to_mono, wav_bytes, write_atomically
    from clearline.config import preset as named
    from clearline.server.chat import Recorder
    from clearline.server.devices import device_list, sound_library

    if devices:
        typer.echo(device_list())
        return
    if input is not None and (microphone or loudspeaker):
        raise ConfigError("--input plays a recording to the model: there is no use for --microphone or --loudspeaker")
    if input is not None and output is None:
        output = Path("reply.wav")
    if output is not None:
        check_wav(output)
        check_target(output, input)
    GenerationConfig(seed=0 if seed is None else seed)
    if preset is not None:
        named(preset)
    recording = None if input is None else read_audio(input, 3600)
    if recording is None:
        sound_library()
    with Steps("chat", quiet=False, first=f"loading {model}") as steps:
        loaded = load(
            model,
            backend=backend,
            quantize=quantize,  # type: ignore[arg-type]
            threads=threads,
            device=device,
            dtype=dtype,
            compile=compile,
        )
        config = loaded.generation(preset, seed=seed)
        loaded.prepare(config, live=True, on_part=steps.part)
    recorder = Recorder()
    with Meters() as meters:
        try:
            if recording is None:
                _with_devices(loaded, config, recorder, meters, microphone, loudspeaker, output is not None)
            else:
                pcm = to_mono(recording.samples, recording.rate, loaded.mimi.sample_rate)
                _with_recording(loaded, config, recorder, meters, pcm, tail)
        except KeyboardInterrupt:
            meters.note("stopped")
        finally:  # what has been said is kept, however it ended
            reply = recorder.pcm()
            if output is not None and reply.size:
                write_atomically(output, wav_bytes(reply, loaded.mimi.sample_rate))
                meters.note(f"wrote {output} ({len(reply) / loaded.mimi.sample_rate:.1f} s)")


def _hub(loaded: "Model", config: GenerationConfig, meters: Meters) -> "Hub":
    from clearline.server.hub import Hub
    from clearline.server.limits import Limits
    from clearline.server.offer import Offer

    if loaded.config.dep_q == 0:
        raise ConfigError("this model writes text only; a conversation needs one that speaks")
    offer = Offer("chat", loaded.session, config, loaded.mimi.frame_size, loaded.mimi.sample_rate)
    hub = Hub([offer], Limits(), 1)
    cost = hub.costs[offer.name]
    if not cost.keeps_up:
        meters.note(f"warning: a frame of 80 ms takes {1000 * cost.step_seconds:.0f} ms here; the reply will lag and stutter")
    return hub


def _with_recording(
    loaded: "Model", config: GenerationConfig, recorder: "Recorder", meters: Meters, pcm: "np.ndarray", tail: float | None
) -> None:
    from clearline.server.chat import RecordingEars, hold

    hub = _hub(loaded, config, meters)
    ears = RecordingEars(pcm, hub.frame_size, hub.frame_size / hub.sample_rate, tail)
    try:
        asyncio.run(hold(hub, config, ears, recorder, meters.show))
    finally:
        hub.shut_down()


def _with_devices(
    loaded: "Model", config: GenerationConfig, recorder: "Recorder", meters: Meters, microphone: str | None,
    loudspeaker: str | None, keep: bool,
) -> None:  # fmt: skip
    from clearline.server.chat import hold
    from clearline.server.devices import Devices

    hub = _hub(loaded, config, meters)

    async def talk() -> None:
        with Devices(hub.frame_size, hub.sample_rate, microphone, loudspeaker) as sound:
            meters.note("Wear headphones: from a loudspeaker the model hears itself. Enter mutes, Ctrl-C ends.")
            threading.Thread(target=mute_on_enter, args=(sound, meters), daemon=True).start()
            if keep:
                recorder.then = sound
            await hold(hub, config, sound, recorder if keep else sound, echo_warning(sound, meters))

    try:
        asyncio.run(talk())
    finally:
        hub.shut_down()


def echo_warning(sound: "Devices", meters: Meters) -> Callable[["Moment"], None]:
    """Shows every moment; looks for an echo every two seconds, and warns of the first."""
    seen = 0
    warned = False

    def show(moment: "Moment") -> None:
        nonlocal seen, warned
        meters.show(moment)
        seen += 1
        if not warned and seen % ECHO_FRAMES == 0 and sound.echo():
            warned = True
            meters.note("warning: the microphone hears the loudspeaker, and the model answers to its own voice; wear headphones")

    return show


def mute_on_enter(sound: "Devices", meters: Meters) -> None:
    """On a thread of its own. Reads the file descriptor: who waits in `sys.stdin` holds a lock that Python needs to end."""
    with suppress(OSError, ValueError):  # no standard input
        while keys := os.read(sys.stdin.fileno(), 1024):
            for _ in range(keys.count(b"\n")):
                sound.muted = not sound.muted
                meters.muted = sound.muted
