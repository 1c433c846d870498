"""The faults: every failure that is known to have happened, and every hypothesis of the five diaries.

`seed N` is the Nth of the diaries, `known` the list of failures that others spent weeks on.
"""

from dataclasses import dataclass

from clearline.audio import to_mono
from clearline.config import Sampling
from clearline.lab.doctor.sound import linear
from clearline.lab.faults import ways
from clearline.lab.faults.ways import Inject


@dataclass(frozen=True)
class Fault:
    """One thing to break. name: what a right diagnosis calls it. boundary: where it is injected. source: who had it, or
    believed to have it. inject: changes a rig. part: faults of one part cannot be combined. silent: the codes and the
    sound stay good, so that nothing but the records, the times or the configuration can show it."""

    name: str
    description: str
    boundary: str
    source: str
    inject: Inject
    part: str
    silent: bool = False


FAULTS: tuple[Fault, ...] = (
    Fault("acoustic-delay", "acoustic delay 2 where the weights were trained with 1", "row, codes_out",
          "seed 000 (the line nobody followed); known", ways.delay(2), "delays"),
    Fault("acoustic-delay", "acoustic delay 0", "row, codes_out", "known", ways.delay(0), "delays"),
    Fault("acoustic-delay", "the program is configured with moshi-cli's fixed delays", "configuration", "seed 000, 002; known",
          ways.program, "setup", silent=True),
    Fault("config-of-another-model", "the configuration of another model (s2st-1b.toml)", "configuration",
          "seed 002 (v11); known", ways.other_config, "setup", silent=True),
    Fault("wrong-codebook-count", "32 codebooks reshaped to 8 a step", "codes_in", "seed 000; known", ways.too_many_codebooks,
          "encoder"),
    Fault("wrong-codebook-count", "half of the codebooks fed", "codes_in", "seed 002 (v8.x); known", ways.too_few_codebooks,
          "encoder"),
    Fault("wrong-codebook-count", "half of the codebooks decoded", "pcm_out", "seed 002 (v8.x); known", ways.half_decoded,
          "codec"),
    Fault("encoder-state-reset", "encoder state thrown away after every frame", "codes_in", "known",
          ways.codec("", forget_encoder=1), "codec"),
    Fault("decoder-state-reset", "every frame decoded by itself, the pieces concatenated", "pcm_out", "seed 002 (v10.0); known",
          ways.codec("", forget_decoder=1), "codec"),
    Fault("shared-codec-state", "encoder and decoder share one state", "codes_in, pcm_out", "known",
          ways.codec("shared-codec-state"), "codec"),
    Fault("codebooks-not-normalised", "embedding sums not divided by cluster usage", "codes_in, pcm_out", "known",
          ways.codec("codebooks-not-normalised"), "codec"),
    Fault("wrong-elu", "ELU reads a transposed tensor as if it were contiguous (Candle Metal)", "codes_in, pcm_out",
          "known; seed 004", ways.wrong_elu, "codec"),
    Fault("broken-operation", "an operation of the machine's backend is wrong", "machine", "seed 001, 003 (Candle Metal)",
          ways.broken_operation, "machine", silent=True),
    Fault("buffer-reversed", "the whole buffer reversed", "speaker", "seed 002 (v9.0); known",
          ways.played(lambda pcm, rate: (pcm[::-1].copy(), rate)), "speaker"),
    Fault("samples-reversed", "the samples of each frame reversed", "speaker", "seed 002 (v9.1); known",
          ways.played(ways.reversed_samples), "speaker"),
    Fault("frames-reversed", "the frames in reverse order", "speaker", "known", ways.played(ways.reversed_frames), "speaker"),
    Fault("input-linear-resampling", "input resampled by linear interpolation", "pcm_in", "seed 001, 003; known",
          ways.hear(linear), "input"),
    Fault("input-wrong-rate", "input taken as 24 kHz, whatever it is", "pcm_in", "seed 003; known",
          ways.hear(lambda pcm, rate, target: pcm), "input"),
    Fault("input-wrong-rate", "input taken as 16 kHz", "pcm_in", "known",
          ways.hear(lambda pcm, rate, target: to_mono(pcm, 16_000, target)), "input"),
    Fault("output-linear-resampling", "output resampled to 48 kHz by linear interpolation", "speaker", "seed 001; known",
          ways.played(lambda pcm, rate: (linear(pcm, rate, 48_000), 48_000)), "speaker"),
    Fault("output-wrong-rate", "24 kHz samples under a header of 16 kHz", "speaker", "known",
          ways.played(lambda pcm, rate: (pcm, 16_000)), "speaker"),
    Fault("output-wrong-rate", "24 kHz samples under a header of 22.05 kHz", "speaker", "known",
          ways.played(lambda pcm, rate: (pcm, 22_050)), "speaker"),
    Fault("output-wrong-rate", "48 kHz samples under a header of 24 kHz", "speaker", "known",
          ways.played(lambda pcm, rate: (to_mono(pcm, rate, 48_000), 24_000)), "speaker"),
    Fault("callback-underfilled", "audio callback under-filled (clicks)", "speaker", "known", ways.played(ways.underfilled),
          "speaker"),
    Fault("no-top-k", "temperature alone where the settings say top-k", "tokens", "seed 004 (v7.3-v7.6); known", ways.no_top_k,
          "sampling"),
    Fault("temperature-zero", "temperature 0", "tokens", "known", ways.drawn(Sampling.greedy(), Sampling.greedy()), "sampling"),
    Fault("temperature-high", "temperature 2, no top-k", "tokens", "known", ways.drawn(Sampling(2.0), Sampling(2.0)),
          "sampling"),
    Fault("noise-not-from-seed", "another seed than the recorded one (1337, 123 at the warm-up)", "tokens", "seed 000, 004",
          ways.unseeded, "sampling"),
    Fault("not-deterministic", "a generator that is not seeded: the same seed, another output", "runs", "seed 004 (v7.6)",
          ways.random_runs, "sampling"),
    Fault("audio-vocabulary-offset", "audio tokens one too large for the codec", "codes_out", "known", ways.vocabulary,
          "codes"),
    Fault("text-vocabulary-offset", "text token fed back one too large", "row", "known", ways.text_vocabulary, "text"),
    Fault("rope-layout", "split-half RoPE on interleaved weights", "hidden", "known", ways.lm("rope-layout"), "lm"),
    Fault("ring-wrap", "the cache keeps the wrong slots after it wraps", "hidden", "known (garbled after 5:27)",
          ways.lm("ring-wrap"), "lm"),
    Fault("quantisation-group", "quantisation groups of 64 read as 32", "hidden", "known", ways.lm("quantisation-group"), "lm"),
    Fault("depformer-step", "depformer weights of the wrong step", "audio_logits", "known; seed 002", ways.lm("depformer-step"),
          "lm"),
    Fault("too-slow", "a frame takes longer than 80 ms", "time", "known; seed 003 (\"CPU is not an option\")", ways.slow,
          "time", silent=True),
    Fault("cached-result", "one result counted twice", "runs", "known; seed 004 (one MD5 for four versions)", ways.cached,
          "runs", silent=True),
    Fault("stale-result", "an older file taken for this run's", "output", "seed 004 (files overwritten)", ways.stale, "runs"),
    Fault("hallucinated-transcript", "a recogniser's sentence taken for what was said", "transcript",
          "seed 001, 004 (\"Thanks for watching!\")", ways.hallucinated, "transcript", silent=True),
)  # fmt: skip
