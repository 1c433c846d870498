"""`clearline codec encode` and `decode`: Mimi alone."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import (
    BackendOption,
    JsonOption,
    MaxMinutes,
    OutputOption,
    ThreadsOption,
    WeightsOption,
    check_target,
    check_wav,
)
from clearline.cli.progress import RunProgress
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.generate import Codec

codec_app = typer.Typer(help="The Mimi codec alone: audio to codes and back.", no_args_is_help=True)
CodecModel = Annotated[str, typer.Option("--model", "-m", help="nano, a model's folder, or a codec alone: its folder or its file.")]


@codec_app.command()
def encode(
    input: Annotated[Path, typer.Argument(help="An audio file of any common format.")],
    output: OutputOption = Path("codes.safetensors"),
    model: CodecModel = "nano",
    codebooks: Annotated[int | None, typer.Option("--codebooks", "-k", help="How many codebooks; by default all.")] = None,
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    max_minutes: MaxMinutes = 60.0,
    json_output: JsonOption = False,
) -> None:
    """Audio to codes: int64 [codebooks, frames] as .safetensors (tensor "codes") or .npy."""
    from clearline.app import load_codec
    from clearline.audio import read_audio, to_mono, write_atomically

    _check_codes_path(output)
    check_target(output, input, json_output)
    recording = read_audio(input, max_minutes * 60)
    codec = load_codec(model, backend=backend, threads=threads, weights=weights)
    pcm = to_mono(recording.samples, recording.rate, codec.sample_rate)
    pcm = np.pad(pcm, (0, -len(pcm) % codec.frame_size)).reshape(-1, codec.frame_size)
    stream = codec.stream(codebooks)
    codes: list[np.ndarray] = []
    with RunProgress("encode", show_text=False, quiet=json_output) as progress:
        for number, frame in enumerate(pcm):
            codes.append(stream.encode(frame))
            progress.frame(number, len(pcm))
    array = np.stack(codes, 1)
    data = _codes_bytes(output, array)
    write_atomically(output, data)
    _report(json_output, input, output, data, array, codec, model)


@codec_app.command()
def decode(
    input: Annotated[Path, typer.Argument(help="Codes [codebooks, frames] as .safetensors or .npy.")],
    output: OutputOption = Path("decoded.wav"),
    model: CodecModel = "nano",
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Codes to a 16-bit WAV."""
    from clearline.app import load_codec
    from clearline.audio import wav_bytes, write_atomically

    check_wav(output)
    check_target(output, input, json_output)
    codes = _read_codes(input)
    codec = load_codec(model, backend=backend, threads=threads, weights=weights)
    stream = codec.stream(codec.checked_codebooks(codes.shape[0]))
    pcm: list[np.ndarray] = []
    with RunProgress("decode", show_text=False, quiet=json_output) as progress:
        for number, frame in enumerate(codes.T):
            pcm.append(stream.decode(frame))
            progress.frame(number, codes.shape[1])
    data = wav_bytes(np.concatenate(pcm), codec.sample_rate)
    write_atomically(output, data)
    _report(json_output, input, output, data, codes, codec, model)


def _report(json_output: bool, input: Path, output: Path, data: bytes, codes: np.ndarray, codec: "Codec", model: str) -> None:
    codebooks, frames = codes.shape
    if not json_output:
        seconds = frames * codec.frame_size / codec.sample_rate
        typer.echo(f"wrote {output}: {codebooks} codebooks x {frames} frames ({seconds:.2f} s)", err=True)
        return
    known = origin(input=input)
    known["hashes"] |= {"output": hashlib.sha256(data).hexdigest(), "codec_weights": _weights_hash(model)}
    facts = {"output_path": str(output), "codebooks": codebooks, "frames": frames, "backend": codec.backend.name}
    bits = getattr(codec.backend, "bits", 32)
    facts["weights_dtype"] = codec.backend.dtype if bits == 32 else f"int{bits}"
    print_json(facts | known)


def _weights_hash(model: str) -> str:
    from clearline.app import model_folder
    from clearline.checkpoint import mimi_hash

    return mimi_hash(model_folder(model))


def _check_codes_path(path: Path) -> None:
    if path.suffix not in (".safetensors", ".npy"):
        raise ConfigError(f"codes are written as .safetensors or .npy, not as {path.suffix or 'a file without suffix'}: {path}")


def _codes_bytes(path: Path, codes: np.ndarray) -> bytes:
    import io

    from safetensors.numpy import save

    if path.suffix == ".safetensors":
        return save({"codes": np.ascontiguousarray(codes)})
    buffer = io.BytesIO()
    np.save(buffer, codes)
    return buffer.getvalue()


def _read_codes(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise ConfigError(f"{path} does not exist or is not a file")
    _check_codes_path(path)
    try:
        if path.suffix == ".npy":
            codes = np.load(path, allow_pickle=False)
        else:
            tensors = load_file(path)
            if "codes" not in tensors:
                raise ConfigError(f"{path} has no tensor called 'codes'; it holds {', '.join(sorted(tensors)) or 'nothing'}")
            codes = tensors["codes"]
    except (SafetensorError, ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.size == 0:
        raise ConfigError(f"{path}: codes must be whole numbers [codebooks, frames], got {codes.dtype} {list(codes.shape)}")
    return codes.astype(np.int64)
