"""`clearline chat`: a conversation in the terminal, with the machine's microphone or with a recording in real time."""

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.meters import Meters
from clearline.cli.options import BackendOption, ModelOption, ThreadsOption
from clearline.config import GenerationConfig
from clearline.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from clearline.app import Model
    from clearline.server.chat import Recorder
    from clearline.server.devices import Devices
    from clearline.server.hub import Hub


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
    backend: BackendOption = "onnx",
    quantize: Annotated[str | None, typer.Option(help="q8 or q4: round the language model's weights.")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Talk to the model. Enter mutes the microphone and opens it again; Ctrl-C ends the conversation."""
    from clearline.app import load
    from clearline.audio import check_writable, read_audio, to_mono, wav_bytes, write_atomically
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
        check_writable(output)
        if input is not None and input.exists() and output.exists() and input.samefile(output):
            raise ConfigError(f"{output} is the input itself: it would be overwritten")
    GenerationConfig(seed=0 if seed is None else seed)
    if preset is not None:
        named(preset)
    recording = None if input is None else read_audio(input, 3600)
    if recording is None:
        sound_library()
    loaded = load(model, backend=backend, quantize=quantize, threads=threads)  # type: ignore[arg-type]
    config = loaded.generation(preset, seed=seed)
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
    if output is not None:
        write_atomically(output, wav_bytes(recorder.pcm(), loaded.mimi.sample_rate))
        typer.echo(f"wrote {output} ({len(recorder.pcm()) / loaded.mimi.sample_rate:.1f} s)", err=True)


def _hub(loaded: "Model", config: GenerationConfig, meters: Meters) -> "Hub":
    from clearline.server.hub import Hub
    from clearline.server.limits import Limits

    if loaded.config.dep_q == 0:
        raise ConfigError("this model writes text only; a conversation needs one that speaks")
    hub = Hub(loaded.session, config, loaded.mimi.frame_size, loaded.mimi.sample_rate, Limits(), 1)
    if not hub.capacity.keeps_up:
        meters.note(
            f"warning: a frame of 80 ms takes {1000 * hub.capacity.step_seconds:.0f} ms here; the reply will lag and stutter"
        )
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
            threading.Thread(target=_mute_on_enter, args=(sound, meters), daemon=True).start()
            if keep:
                recorder.then = sound
            await hold(hub, config, sound, recorder if keep else sound, meters.show)

    try:
        asyncio.run(talk())
    finally:
        hub.shut_down()


def _mute_on_enter(sound: "Devices", meters: Meters) -> None:
    for _ in sys.stdin:
        sound.muted = not sound.muted
        meters.muted = sound.muted
