"""What the judge hears before anyone is asked: silence, pauses, and defects that rules can find."""

import numpy as np
import pytest

from clearline.errors import AudioError
from clearline.lab.judge import judge
from clearline.lab.judge.defects import clipped_share, defects, frame_pattern, gap_count, looped
from clearline.lab.judge.hearing import hear
from clearline.lab.judge.sound import statistics

RATE, FRAME = 24_000, 1920


def voice(seconds: float = 3.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Something like speech: a gliding pitch with overtones through two moving resonances, four syllables a second."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = 500 + 300 * np.sin(2 * np.pi * 1.3 * t), 1500 + 600 * np.sin(2 * np.pi * 1.9 * t + 1)
    out = np.zeros(len(t))
    for k in range(1, 24):
        out += sum(np.exp(-(((k * pitch - f) / 200) ** 2)) for f in formants) * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, None) ** 0.5
    return (0.2 * out * syllables + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.mark.parametrize(
    ("pcm", "why"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((0, 2), np.float32), "no samples"),
        (np.zeros(RATE, np.float32), "nothing is louder"),
        (np.full(RATE, 1e-4, np.float32), "nothing is louder than -80 dB"),
        (np.eye(1, RATE, 5000, dtype=np.float32)[0] * 0.9, "only 0.02 s"),
    ],
)
def test_silence(pcm, why):
    found = judge(pcm, RATE)
    assert found.verdict == "silent" and why in found.evidence
    assert len(found.not_asked) == 5  # nobody is asked about nothing, and it says so


def test_too_short_to_judge():
    found = judge(voice()[2000:7000], RATE)
    assert found.verdict == "undecided" and "too short" in found.evidence


def test_what_is_no_sound_is_refused():
    for pcm in (np.full(100, np.nan, np.float32), np.zeros((2, 2, 2), np.float32)):
        with pytest.raises(AudioError):
            judge(pcm, RATE)


def test_any_rate_width_and_number_of_channels():
    pcm = voice()
    plain = hear(pcm, RATE)
    assert plain.rate == RATE and plain.loudest == pytest.approx(hear(pcm, RATE).loudest)
    stereo, whole = hear(np.stack([pcm, pcm], 1), RATE), hear((pcm * 32767).astype(np.int16), RATE)
    for other in (stereo, whole, hear(voice(rate=8000), 8000), hear(voice(rate=48_000), 48_000)):
        assert abs(other.active - plain.active) < 0.15 and abs(len(other.voice) - len(plain.voice)) < 4000


def test_pauses_are_cut_and_the_ends_found():
    pcm = voice(1.0)
    heard = hear(np.concatenate([np.zeros(2 * RATE), pcm, np.zeros(4 * RATE), pcm, np.zeros(RATE)]).astype(np.float32), RATE)
    # Two seconds of voice, half a second of the pause, and the margins.
    assert 2.2 < len(heard.voice) / 16_000 < 3.0
    assert heard.start == pytest.approx(2.0, abs=0.15) and heard.end == pytest.approx(8.0, abs=0.15)


def test_an_intact_sound_has_no_defect():
    for seed in range(3):
        assert defects(hear(voice(seed=seed), RATE)) == []


def test_clipping_is_found_at_any_level():
    pcm = voice()
    cut = np.clip(4 * pcm / np.abs(pcm).max(), -1, 1).astype(np.float32)
    for level in (1.0, 0.3):
        assert clipped_share(cut * level) > 0.05
        assert any("cut off" in line for line in defects(hear(cut * level, RATE)))
    assert clipped_share(pcm) < 1e-3


@pytest.mark.parametrize("rate", [16_000, RATE, 48_000])
def test_clicks_at_the_edges_of_frames(rate):
    pcm = voice(4.0, rate)
    frame = int(0.08 * rate)
    clicked = pcm.copy()
    clicked[37::frame] += 0.2
    other = pcm.copy()
    other[37 :: int(frame * 1.37)] += 0.2  # as many clicks, not at frames
    assert frame_pattern(hear(clicked, rate)) > 10 > 5 > frame_pattern(hear(other, rate))
    assert any("every 80 ms" in line for line in defects(hear(clicked, rate)))


def test_gaps_inside_the_sound():
    pcm = voice()
    torn = pcm.copy()
    loud = np.flatnonzero(np.abs(pcm) > 0.1)
    for start in loud[:: len(loud) // 12][:10]:
        torn[start : start + 300] = 0
    assert gap_count(hear(torn, RATE)) >= 4 and gap_count(hear(pcm, RATE)) == 0
    # The silence between syllables that fade out is no gap.
    faded = pcm * np.repeat(np.hanning(2400), 30)[: len(pcm)].astype(np.float32)
    assert gap_count(hear(faded, RATE)) == 0


def test_loops():
    rng = np.random.default_rng(0)
    pcm = rng.standard_normal(2 * 16_000).astype(np.float32) * 0.1
    seconds, period = looped(np.concatenate([pcm[:16_000], pcm[11_200:16_000], pcm[11_200:16_000], pcm[16_000:]]))
    assert period == pytest.approx(0.3, abs=0.006) and 0.4 <= seconds <= 0.7
    assert looped(pcm) == (0.0, 0.0)
    assert any("repeat" in line for line in defects(hear(np.tile(voice()[9000:15_000], 8), RATE)))


def test_a_hum_or_an_offset_is_no_loop():
    pcm = voice(rate=16_000)
    hum = 0.15 * np.sin(2 * np.pi * 50 * np.arange(len(pcm)) / 16_000).astype(np.float32)
    for sound in (pcm + np.float32(0.2), pcm + hum):
        assert looped(sound)[0] < 0.4


def test_frames_played_twice():
    pcm = voice()
    frames = pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)
    times = np.ones(len(frames), int)
    times[[9, 22, 25]] = 2  # frames with sound
    said = [line for line in defects(hear(np.repeat(frames, times, 0).reshape(-1), RATE)) if "twice" in line]
    assert said == ["3 pieces of 80 ms are played twice"]
    tone = np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE).astype(np.float32)
    for sound in (pcm, tone):
        assert not any("twice" in line for line in defects(hear(sound, RATE)))


def test_an_offset():
    assert any("offset of +0.10" in line for line in defects(hear(voice() + np.float32(0.1), RATE)))


def test_statistics_tell_directions_and_noise_apart():
    t = np.arange(3 * RATE) / RATE
    # Sounds that begin at once and fade, as struck and spoken ones do.
    struck = (np.exp(-12 * (t % 0.25)) * voice()[: len(t)] ** 0 * np.sin(2 * np.pi * 150 * t)).astype(np.float32)
    forwards, backwards = (statistics(hear(x, RATE)) for x in (struck, struck[::-1].copy()))
    assert forwards["attack"] > 1 and backwards["attack"] < -1
    assert forwards["voiced"] > 0.9 and forwards["pitch"] == pytest.approx(150, rel=0.02)
    noise = statistics(hear((0.1 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32), RATE))
    assert noise["voiced"] < 0.1 and noise["range"] < 5 and noise["bands_together"] < 0.5
    assert statistics(hear(voice(), RATE))["modulation"] > noise["modulation"]
