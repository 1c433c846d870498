"""Everything a user can get wrong: one clear line on standard error, exit code 2, and no file that was not there before."""

import json
import struct
import sys

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, copy_checkpoint, speech
from helpers.command import Answer, command
from safetensors.numpy import load_file, save_file

MODEL = DATA / "moshi_d1"
TONE = speech(4)


@pytest.fixture
def folder(tmp_path):
    """Where the command may write; whatever else it leaves behind is found."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.wav"
    soundfile.write(path, TONE, 24_000)
    return path


def refused(answer: Answer, *words: str, lines: int = 1) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert len(answer.err.strip().splitlines()) == lines, answer.err
    assert answer.err.startswith("error: ")
    for word in words:
        assert word in answer.err, f"{word!r} is not in {answer.err!r}"


def nothing_left(folder) -> None:
    assert list(folder.iterdir()) == []


# -- the recording -----------------------------------------------------------------------------------------------------


def whole(container: str, folder) -> bytes:
    path = folder / f"whole.{container}"
    soundfile.write(path, TONE, 24_000, format=container)
    data = path.read_bytes()
    path.unlink()
    return data


def write_nan(path):
    soundfile.write(path, np.where(np.arange(TONE.size) == 2400, np.nan, TONE), 24_000, "FLOAT")


def write_no_channels(path):
    data = bytearray(whole("WAV", path.parent))
    data[22:24] = bytes(2)
    path.write_bytes(data)


def write_three_hours(path):
    size = 3 * 3600 * 48_000
    with path.open("wb") as file:
        file.write(struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, 24_000, 48_000, 2, 16, b"data", size))
        file.truncate(44 + size)


BAD_FILES = {
    "missing.wav": (lambda path: None, "does not exist"),
    "empty.wav": (lambda path: path.touch(), "empty"),
    "folder.wav": (lambda path: path.mkdir(), "is a folder"),
    "text.wav": (lambda path: path.write_text("good morning " * 99), "cannot be read as audio"),
    "picture.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), "cannot be read as audio"),
    "cut.wav": (lambda path: path.write_bytes(whole("WAV", path.parent)[:-1000]), "cut short"),
    "cut.aiff": (lambda path: path.write_bytes(whole("AIFF", path.parent)[:-1000]), "cut short"),
    "cut.flac": (lambda path: path.write_bytes(whole("FLAC", path.parent)[:-1000]), "cannot be read"),
    "nan.wav": (write_nan, "0.100 s"),
    "no_channels.wav": (write_no_channels, "Channel count is zero"),
    "three_hours.wav": (write_three_hours, "180.0 minutes"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("arguments", [["run", "-o", "reply.wav"], ["codec", "encode", "-o", "codes.npy"]], ids=["run", "encode"])
def test_bad_recordings(clearline, tmp_path, folder, monkeypatch, name, arguments):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    monkeypatch.chdir(folder)
    refused(clearline(*arguments, tmp_path / name, "-m", MODEL), name, message)
    nothing_left(folder)


def test_the_limit_can_be_raised_and_lowered(clearline, hello, folder):
    refused(clearline("run", hello, "-o", folder / "a.wav", "-m", MODEL, "--max-minutes", 0.001), "limit is 0.001 minutes")
    nothing_left(folder)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", -1], ["seed is -1", "0..2^64-1"]),
        (["--seed", 2**64], ["seed is 18446744073709551616"]),
        (["--top-k", -5], ["top-k is -5"]),
        (["--text-top-k", 2**40], ["top-k is"]),
        (["--temperature", -0.5], ["temperature is -0.5", "0..100"]),
        (["--temperature", "nan"], ["temperature is nan"]),
        (["--text-temperature", "inf"], ["temperature is inf"]),
        (["--top-p", 1.5], ["top-p is 1.5", "0..1"]),
        (["--min-p", -1], ["min-p is -1"]),
        (["--repetition-penalty", 0], ["repetition penalty is 0"]),
        (["--padding-bonus", "1e9"], ["padding bonus"]),
        (["--tail", -1], ["tail", "-1"]),
        (["--tail", "nan"], ["tail", "nan"]),
        (["--trace-logits"], ["--trace FILE"]),
        (["--trace-pcm"], ["--trace FILE"]),
        (["--model", ""], ["name is empty"]),
        (["--threads", 0], ["threads is 0", "1..1024"]),
        (["--preset", "kyutai"], ["no preset 'kyutai'", "kyutai-pytorch"]),
        (["--backend", "cuda"], ["no backend 'cuda'", "numpy64"]),
        (["--quantize", "q3"], ["'q3'", "q8"]),
        (["--model", "no/such/folder"], ["no model at no/such/folder"]),
        (["--model", MODEL / "config.json"], ["is a file", "a model is a folder"]),
    ],
)
def test_options_out_of_range(clearline, hello, folder, options, words):
    model = [] if "--model" in options else ["-m", MODEL]
    refused(clearline("run", hello, "-o", folder / "a.wav", *model, *options), *words)
    nothing_left(folder)


@pytest.mark.parametrize("options", [["--seed", "lucky"], ["--top-k", "2.5"], ["--max-minutes", -1], ["--unknown"]])
def test_options_that_cannot_be_read(clearline, hello, folder, options):
    answer = clearline("run", hello, "-o", folder / "a.wav", "-m", MODEL, *options)
    assert answer.code == 2 and answer.out == "" and "Traceback" not in answer.err and options[0] in answer.err
    nothing_left(folder)


def test_a_missing_argument(clearline):
    answer = clearline("run")
    assert answer.code == 2 and "Missing argument" in answer.err and "Traceback" not in answer.err


# -- where to write ----------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written_are_refused_before_the_work(clearline, hello, folder):
    (folder / "file").touch()
    for output, words in (
        (folder / "no" / "a.wav", ["does not exist"]),
        (folder / "file" / "a.wav", ["cannot write"]),
        (folder, ["is a folder"]),
        ("/proc/self/a.wav", ["cannot write"]),
        (folder / "a.mp3", ["WAV", ".mp3"]),
        (hello, ["is the input itself"]),
    ):
        refused(clearline("run", hello, "-o", output, "-m", MODEL), *words)
    refused(clearline("run", hello, "-o", folder / "a.wav", "-m", MODEL, "--trace", folder / "no" / "t"), "does not exist")
    same = ("run", hello, "-o", folder / "a.wav", "-m", MODEL, "--trace", folder / "a.wav")
    refused(clearline(*same), "cannot both")
    (folder / "a.wav").write_bytes(b"old")
    refused(clearline(*same), "cannot both")
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav", "file"]
    assert (folder / "a.wav").read_bytes() == b"old" and hello.stat().st_size > 1000


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes here")
def test_a_full_disk(hello, folder):
    """A limit on file sizes stands in for it: the WAV of 15 kB does not fit."""
    (folder / "a.wav").write_bytes(b"old")
    answer = command("run", hello, "-o", folder / "a.wav", "-m", MODEL, "--tail", 0, "--json", prelude=FULL)
    refused(answer, "cannot write", "a.wav", "nothing was written")
    np.save(hello.with_suffix(".npy"), np.zeros((8, 10), np.int64))
    answer = command("codec", "decode", hello.with_suffix(".npy"), "-o", folder / "b.wav", "-m", MODEL, prelude=FULL)
    refused(answer, "cannot write", "b.wav")
    assert [path.name for path in folder.iterdir()] == ["a.wav"] and (folder / "a.wav").read_bytes() == b"old"


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    return copy_checkpoint("moshi_d1", tmp_path / "model")


def edit(path, **changes) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (raw | changes).items() if value != "REMOVE"}))


def try_model(clearline, hello, folder, model) -> Answer:
    answer = clearline("run", hello, "-o", folder / "a.wav", "-m", model)
    nothing_left(folder)
    return answer


@pytest.mark.parametrize("name", ["model.safetensors", "mimi.safetensors", "mimi_config.json", "tokenizer.model"])
def test_missing_files(clearline, hello, folder, broken, name):
    (broken / name).unlink()
    refused(try_model(clearline, hello, folder, broken), name, "does not exist")


@pytest.mark.parametrize("name", ["model.safetensors", "mimi.safetensors", "config.json", "mimi_config.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"{" * 100_000], ids=["empty", "text", "bytes", "braces"])
def test_damaged_files(clearline, hello, folder, broken, name, content):
    (broken / name).write_bytes(content)
    refused(try_model(clearline, hello, folder, broken), name)


@pytest.mark.parametrize("name", ["model.safetensors", "mimi.safetensors"])
def test_cut_weights(clearline, hello, folder, broken, name):
    data = (broken / name).read_bytes()
    (broken / name).write_bytes(data[: len(data) // 2])
    refused(try_model(clearline, hello, folder, broken), name)


def test_a_config_of_another_model_lists_every_contradiction(clearline, hello, folder, broken):
    """Seed 002's mistake: the shapes of the tensors say that this config belongs to another model."""
    edit(broken / "config.json", card=40)
    edit(broken / "mimi_config.json", quantizer=json.loads((broken / "mimi_config.json").read_text())["quantizer"] | {"bins": 40})
    answer = try_model(clearline, hello, folder, broken)
    # One line for the file and one for each codebook of the codec: 10 of them hold 32 entries, not 40.
    refused(answer, "mimi.safetensors contradicts its configuration in 10 tensors", lines=11)
    for line in answer.err.splitlines()[1:]:
        assert "_codebook.embedding: expected [40, 8], found [32, 8]" in line


def test_a_wider_model_lists_all_its_tensors(clearline, hello, folder, broken):
    """Every tensor that has `dim` in its shape, however many there are."""
    edit(broken / "config.json", dim=64)
    wrong = [
        name for name, x in load_file(broken / "model.safetensors").items() if 32 in x.shape and not name.startswith("linears.")
    ]
    answer = try_model(clearline, hello, folder, broken)
    listed = answer.err.splitlines()[1:]
    refused(answer, f"in {len(listed)} tensors", lines=1 + len(listed))
    assert len(listed) > 20
    for name in wrong:
        # The file's stacked names are listed as the projections they hold.
        new = name.replace("in_proj_weight", "in_projs.").replace("out_proj.weight", "out_projs.")
        assert any(new in line for line in listed), name
    assert all("expected [" in line and "found [" in line for line in listed)


@pytest.mark.parametrize(
    ("changes", "tensor", "expected", "found"),
    [
        ({"card": 40}, None, None, None),
        ({"text_card_out": 300}, "text_linear.weight", "[300, 32]", "[320, 32]"),
        ({"hidden_scale": 6}, "gating.linear_in.weight", "[256, 32]", "[176, 32]"),
        ({"num_layers": 3}, "transformer.layers.2.norm1.alpha", "[1, 1, 32]", None),
        ({"num_layers": 1}, "transformer.layers.1.norm1.alpha", None, "[1, 1, 32]"),
        ({"depformer_num_layers": 1}, "depformer.layers.1.norm1.alpha", None, "[1, 1, 16]"),
        ({"extra_heads_num_heads": 1}, "extra_heads.0.weight", "[6, 32]", None),
    ],
)
def test_config_against_weights(clearline, hello, folder, broken, changes, tensor, expected, found):
    edit(broken / "config.json", **changes)
    answer = try_model(clearline, hello, folder, broken)
    assert answer.code == 2 and "Traceback" not in answer.err and answer.err.startswith("error: ")
    if tensor is not None:
        line = next(line for line in answer.err.splitlines() if tensor in line)
        assert expected is None or expected in line
        assert found is None or found in line


def test_a_missing_tensor_an_extra_one_and_a_wrong_shape_are_all_listed(clearline, hello, folder, broken):
    path = broken / "mimi.safetensors"
    tensors = load_file(path)
    del tensors["upsample.convtr.convtr.convtr.weight"]
    tensors["stowaway"] = np.zeros((2, 3), np.float32)
    tensors["encoder.model.0.conv.conv.bias"] = np.zeros(7, np.float32)
    save_file(tensors, path)
    answer = try_model(clearline, hello, folder, broken)
    refused(answer, "mimi.safetensors", "3 tensors", lines=4)
    for words in (
        ("upsample.convtr.convtr.convtr.weight", "[16, 1, 4]", "not in the file"),
        ("stowaway", "[2, 3]", "not expected"),
        ("encoder.model.0.conv.conv.bias", "expected [2]", "found [7]"),
    ):
        assert any(all(word in line for word in words) for line in answer.err.splitlines()), words


def test_a_tokenizer_of_another_model(clearline, hello, folder, broken):
    (broken / "tokenizer.model").write_bytes((DATA / "delay0" / "tokenizer.model").read_bytes())
    refused(try_model(clearline, hello, folder, broken), "48 pieces", "320", "another model")


def test_a_codec_with_too_few_codebooks(clearline, hello, folder, broken):
    for name in ("mimi.safetensors", "mimi_config.json"):
        (broken / name).write_bytes((DATA / "odd2" / name).read_bytes())
    refused(try_model(clearline, hello, folder, broken), "8 codebooks", "codec has 6")


def test_an_unknown_key(clearline, hello, folder, broken):
    edit(broken / "config.json", attention_sinks=4)
    refused(try_model(clearline, hello, folder, broken), "attention_sinks")


def test_a_pickle_is_never_opened(clearline, hello, folder, broken):
    edit(broken / "config.json", moshi_name="model.pt")
    (broken / "model.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    refused(try_model(clearline, hello, folder, broken), "pickle", "model.pt model.safetensors", lines=2)
    assert not (broken / "owned").exists()


def test_an_empty_folder_is_taken_for_the_7b_and_says_what_it_lacks(clearline, hello, folder, tmp_path):
    (tmp_path / "void").mkdir()
    refused(try_model(clearline, hello, folder, tmp_path / "void"), "does not exist")


# -- codes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((11, 4), np.int64), "codebooks"),
        (np.full((8, 4), 32), "0..31"),
        (np.full((8, 4), -1), "0..31"),
        (np.zeros((8, 4), np.float32), "whole numbers"),
        (np.zeros(8, np.int64), "[8]"),
        (np.zeros((8, 0), np.int64), "[8, 0]"),
        (np.array([{}, {}]), "cannot be read"),
    ],
)
def test_bad_codes(clearline, tmp_path, folder, codes, message):
    np.save(tmp_path / "codes.npy", codes, allow_pickle=True)
    refused(clearline("codec", "decode", tmp_path / "codes.npy", "-o", folder / "a.wav", "-m", MODEL), message)
    nothing_left(folder)


def test_codes_files_that_are_none(clearline, tmp_path, folder):
    for name, content in (("a.npy", b""), ("b.npy", b"text"), ("c.safetensors", b"text"), ("d.txt", b"1 2 3")):
        (tmp_path / name).write_bytes(content)
        refused(clearline("codec", "decode", tmp_path / name, "-o", folder / "a.wav", "-m", MODEL), name)
    save_file({"other": np.zeros(3)}, tmp_path / "e.safetensors")
    refused(clearline("codec", "decode", tmp_path / "e.safetensors", "-o", folder / "a.wav", "-m", MODEL), "'codes'", "other")
    refused(clearline("codec", "decode", tmp_path / "no.npy", "-o", folder / "a.wav", "-m", MODEL), "does not exist")
    nothing_left(folder)


@pytest.mark.parametrize("count", [0, -1, 11])
def test_a_number_of_codebooks_the_codec_does_not_have(clearline, hello, folder, count):
    answer = clearline("codec", "encode", hello, "-o", folder / "a.npy", "-m", MODEL, "-k", count)
    refused(answer, f"{count} codebooks", "1..10")
    nothing_left(folder)


def test_codes_are_written_in_two_formats_only(clearline, hello, folder):
    refused(clearline("codec", "encode", hello, "-o", folder / "a.wav", "-m", MODEL), ".safetensors or .npy")
    nothing_left(folder)


def test_codes_are_never_overwritten_by_their_sound(clearline, folder):
    np.save(folder / "codes.npy", np.zeros((8, 4), np.int64))
    (folder / "codes").symlink_to(folder / "codes.npy")
    before = (folder / "codes.npy").read_bytes()
    refused(clearline("codec", "decode", folder / "codes.npy", "-o", folder / "codes.npy"), "written as a WAV")
    refused(clearline("codec", "decode", folder / "codes.npy", "-o", folder / "codes"), "is the input itself")
    refused(clearline("codec", "decode", folder / "codes.npy", "-o", folder / "a.mp3"), "not as .mp3")
    assert (folder / "codes.npy").read_bytes() == before and not (folder / "a.mp3").exists()
