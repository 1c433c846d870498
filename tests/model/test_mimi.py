"""Mimi: streaming is the whole file, fewer codebooks are a prefix, and nothing is shared that should not be."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, CASES, assert_close, golden, model, speech

import clearline
from clearline.errors import AudioError, SessionError
from clearline.model import MimiDecoder, MimiEncoder

CASE = "moshi_d1"


@pytest.fixture(params=BACKENDS)
def codec(request) -> clearline.Codec:
    return model(CASE, request.param).mimi


def whole_config(codec: clearline.Codec, frames: int):
    """The codec with a ring that takes a whole recording at once, its attention windows unchanged."""
    assert codec.cfg.transformer is not None
    transformer = codec.cfg.transformer
    context = transformer.context + transformer.frame_rows * frames
    return replace(codec.cfg, transformer=replace(transformer, context=context))


@pytest.mark.parametrize("backend", BACKENDS)
def test_streaming_is_the_whole_file_within_the_context(backend):
    """40 frames in 40 steps, against 40 frames in one: to 1e-5 from the first sample to the last.

    The context is made longer than the recording in both, for within it all of Kyutai's ways of attending agree.
    """
    loaded = model(CASE, backend)
    frames = 40
    cfg = whole_config(loaded.mimi, frames)
    weights = dict(loaded.checkpoint.mimi_weights())
    pcm = golden(CASE)["pcm"][: frames * 1920]
    streaming = clearline.Codec(cfg, loaded.backend, weights)
    encoder, decoder = MimiEncoder(cfg, cfg.n_q, frames), MimiDecoder(cfg, cfg.n_q, frames)
    compiled = loaded.backend.compile(encoder.step, weights, encoder.state(1), encoder.inputs(1))
    at_once = compiled.run(loaded.backend.state(encoder.state(1)), {"pcm": pcm[None, :, None]})
    stream = streaming.stream()
    latent = np.stack([stream.encode_latent(frame) for frame in pcm.reshape(-1, 1920)], 0)
    assert_close(latent, at_once["latent"][0], "latent", 1e-5)
    codes = streaming.encode(pcm)
    np.testing.assert_array_equal(codes, at_once["codes"][0])
    compiled = loaded.backend.compile(decoder.step, weights, decoder.state(1), decoder.inputs(1))
    heard = compiled.run(loaded.backend.state(decoder.state(1)), {"codes": codes[None]})["pcm"][0, :, 0]
    assert_close(streaming.decode(codes), heard, "pcm", 1e-5)


def test_encode_and_decode_are_the_stream(codec):
    pcm = speech(7)
    stream = codec.stream()
    codes = np.stack([stream.encode(frame) for frame in pcm.reshape(-1, 1920)], 1)
    np.testing.assert_array_equal(codec.encode(pcm), codes)
    heard = np.concatenate([stream.decode(frame) for frame in codes.T])
    np.testing.assert_array_equal(codec.decode(codes), heard)


@pytest.mark.parametrize("case", ["moshi_d1", "wide32", "odd"])
def test_fewer_codebooks_are_a_prefix_for_every_k(case):
    codec = model(case).mimi
    pcm = speech(4)
    everything = codec.encode(pcm)
    assert everything.shape == (codec.cfg.n_q, 4)
    for k in range(1, codec.cfg.n_q + 1):
        np.testing.assert_array_equal(codec.encode(pcm, k), everything[:k], f"{k} codebooks")


def test_every_codebook_is_heard(codec):
    codes = codec.encode(speech(4))
    heard = [codec.decode(codes[:k]) for k in range(1, codec.cfg.n_q + 1)]
    for fewer, more in itertools.pairwise(heard):
        assert np.abs(fewer - more).max() > 1e-6


def test_an_incomplete_frame_is_filled_with_zeros(codec):
    pcm = speech(3)[:-700]
    np.testing.assert_array_equal(codec.encode(pcm), codec.encode(np.pad(pcm, (0, 700))))


def test_encoder_and_decoder_share_no_state(codec):
    """Encoding between the frames of a decoding changes nothing, and the other way round."""
    pcm, codes = speech(6).reshape(-1, 1920), codec.encode(speech(6, seed=2))
    both = codec.stream()
    mixed = [(both.encode(frame).tolist(), both.decode(column).tobytes()) for frame, column in zip(pcm, codes.T, strict=True)]
    one, other = codec.stream(), codec.stream()
    encoded = [one.encode(frame).tolist() for frame in pcm]
    decoded = [other.decode(column).tobytes() for column in codes.T]
    assert mixed == list(zip(encoded, decoded, strict=True))


def test_streams_share_no_state(codec):
    a, b = speech(5, 1).reshape(-1, 1920), speech(5, 2).reshape(-1, 1920)
    one, two = codec.stream(), codec.stream()
    together = [(one.encode(x).tolist(), two.encode(y).tolist()) for x, y in zip(a, b, strict=True)]
    assert [x for x, _ in together] == codec.encode(a.ravel()).T.tolist()
    assert [y for _, y in together] == codec.encode(b.ravel()).T.tolist()


def test_restarting_the_encoder_forgets_everything_and_leaves_the_decoder_alone(codec):
    pcm, codes = speech(3).reshape(-1, 1920), codec.encode(speech(3, seed=2))
    stream = codec.stream()
    for frame in pcm:
        stream.encode(frame)
    first = stream.decode(codes[:, 0])
    stream.restart_encoder()
    assert [stream.encode(frame).tolist() for frame in pcm] == codec.encode(pcm.ravel()).T.tolist()
    rest = [stream.decode(column) for column in codes.T[1:]]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), codec.decode(codes))


def test_a_stream_outlives_twice_its_context():
    """onnx against the float64 reference, frame by frame: context 2 to 12, 60 rows. Codes equal, sound to 1e-4."""
    for case in ("odd", "delay0", "delay2"):
        reference, fast = model(case, "numpy64").mimi, model(case).mimi
        codes = np.random.default_rng(4).integers(0, reference.cfg.bins, (reference.cfg.n_q, 30))
        assert_close(fast.decode(codes), reference.decode(codes), case)


@pytest.mark.parametrize("case", CASES)
def test_a_frame_is_1920_samples_at_24_khz(case):
    codec = model(case).mimi
    assert (codec.frame_size, codec.sample_rate) == (1920, 24_000)
    assert codec.decode(np.zeros((1, 3), np.int64)).shape == (3 * 1920,)
    assert codec.encode(np.zeros(0, np.float32)).shape == (codec.cfg.n_q, 0)
    assert codec.decode(np.zeros((1, 0), np.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 3), np.int64), "0 codebooks"),
        (np.zeros((11, 3), np.int64), "11 codebooks.*1..10"),
        (np.full((2, 3), 32), r"0..31, got 32"),
        (np.full((2, 3), -1), r"0..31, got -1"),
        (np.zeros((2, 3)), "whole numbers"),
        (np.zeros(3, np.int64), r"\[codebooks, frames\]"),
    ],
)
def test_codes_that_cannot_be_decoded(codes, message):
    with pytest.raises(SessionError, match=message):
        model(CASE).mimi.decode(codes)


@pytest.mark.parametrize("count", [0, -1, 11])
def test_codebooks_that_do_not_exist(count):
    with pytest.raises(SessionError, match=r"1\.\.10"):
        model(CASE).mimi.stream(count)


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (np.zeros((2, 1920), np.float32), r"\[2, 1920\]"),
        (np.zeros(1920, np.int16), "int16"),
        (np.full(1920, np.nan, np.float32), "NaN"),
        (np.full(1920, np.inf, np.float32), "infinite"),
    ],
)
def test_sound_that_cannot_be_encoded(pcm, message):
    with pytest.raises(AudioError, match=message):
        model(CASE).mimi.encode(pcm)
