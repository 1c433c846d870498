"""Sound containers with wrong contents: a tensor of another shape, dtype or name, in every format, is our error or harmless."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from helpers.checkpoints import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.inspection import inspect
from clearline.errors import ClearlineError

FORMATS = {
    "bitsandbytes_q8": "model.q8.safetensors",
    "candle": "model.safetensors",
    "hibiki": "model.safetensors",
    "lora": "lora.safetensors",
    "mlx_q4": "model.q4.safetensors",
    "mlx_bf16": "model.safetensors",
    "personaplex": "model.safetensors",
    "transformers": "model.safetensors",
}
SAME_SIZE = {
    "F32": ["U32", "I32"],
    "U32": ["F32", "I32"],
    "BF16": ["F16", "I16"],
    "F16": ["BF16"],
    "I8": ["U8", "BOOL"],
    "I64": ["F64"],
}


def damaged(header: dict, name: str, how: str, draw) -> None:
    entry = header[name]
    size = 1
    for axis in entry["shape"]:
        size *= axis
    if how == "dtype":
        entry["dtype"] = draw(st.sampled_from(SAME_SIZE.get(entry["dtype"], [entry["dtype"]])))
    elif how == "shape":
        divisors = [d for d in range(1, min(size, 257)) if size % d == 0] or [1]
        first = draw(st.sampled_from(divisors))
        rest = size // first if first else 0
        entry["shape"] = draw(st.sampled_from([[size], [first, rest], [rest, first], [1, first, rest], [first, 1, rest, 1]]))
    elif how == "name":
        header[
            draw(st.sampled_from(["x", f"{name}.scales", f"{name}_scb", name.replace("weight", "scales"), f"depformer.9.{name}"]))
        ] = header.pop(name)
    else:
        other = draw(st.sampled_from(sorted(header)))
        header[name], header[other] = header[other], header[name]


def check_wrong_contents(case: str, data, factory) -> None:
    source = DATA / "formats" / case
    folder: Path = factory.mktemp(case) / "model"
    shutil.copytree(source, folder)
    raw = (source / FORMATS[case]).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", None)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        damaged(header, name, data.draw(st.sampled_from(["dtype", "shape", "name", "swap"])), data.draw)
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    (folder / FORMATS[case]).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with contextlib.suppress(ClearlineError):
        for weight in open_checkpoint(folder).lm_weights().values():
            assert weight.shape
    with contextlib.suppress(ClearlineError):
        inspect(folder)


@pytest.mark.parametrize("case", FORMATS)
@settings(max_examples=25)
@given(data=st.data())
def test_wrong_contents(case, data, tmp_path_factory):
    check_wrong_contents(case, data, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("case", FORMATS)
@settings(max_examples=400)
@given(data=st.data())
def test_wrong_contents_at_length(case, data, tmp_path_factory):
    check_wrong_contents(case, data, tmp_path_factory)
