"""The page's own signal processing, module by module, in the browser that runs it."""

import numpy as np
import pytest
import sphn
from helpers.browser import chromium, needs_chromium, opened
from helpers.serving import FRAME, running

pytestmark = needs_chromium
RATE = 24_000


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with running() as (address, _), chromium(tmp_path_factory.mktemp("none") / "none.wav") as browser, opened(browser) as fresh:
        fresh.goto(f"http://{address}/")
        yield fresh


PLAY = """async ([arrivals, pauses]) => {
  const { JitterBuffer } = await import("/web/jitter.js");
  const rate = 24000, block = 128, buffer = new JitterBuffer(rate);
  const after = [];
  let next = 0, last = null, count = 0, least = Infinity, most = -Infinity;
  for (let n = 0; n * block / rate < arrivals.at(-1) + 0.05; n++) {
    for (; next < arrivals.length && arrivals[next] <= n * block / rate; next++) {
      // A ramp in speech, so that every sample is known; silence in pauses.
      const sample = (i) => next % 20 < pauses ? 0 : 0.1 + (next * 1920 + i) / 1e7;
      buffer.push(Float32Array.from({ length: 1920 }, (_, i) => sample(i)), n * block / rate);
      after.push({ dry: buffer.dry, target: buffer.target, wait: buffer.wait, held: buffer.seconds });
    }
    const output = new Float32Array(block);
    buffer.pull(output, n * block / rate);
    for (const sample of output.filter((x) => x > 0)) {
      if (last !== null) {
        least = Math.min(least, sample - last);
        most = Math.max(most, sample - last);
      }
      last = sample;
      count += 1;
    }
  }
  return { after, count, last, least, most, skipped: buffer.skipped };
}"""


def play(page, late, pauses=0):
    """Frames that come `late` (seconds), and never before the one before them, through the page's jitter buffer."""
    arrivals = np.maximum.accumulate(0.5 + 0.08 * np.arange(len(late)) + np.asarray(late))
    return page.evaluate(PLAY, [arrivals.tolist(), pauses])


def test_a_steady_line_is_played_whole_after_a_short_wait(page):
    result = play(page, np.zeros(50))
    assert result["after"][-1]["dry"] == 0 and result["after"][0]["wait"] == pytest.approx(0.04)
    # No sample lost, none twice.
    assert result["last"] == pytest.approx(0.1 + (result["count"] - 1) / 1e7, abs=1e-7) and result["count"] > 48 * FRAME
    assert result["least"] > 0 and result["most"] < 2e-7


def test_jitter_within_the_first_wait_is_not_heard(page):
    assert play(page, np.random.default_rng(0).uniform(0, 0.03, 300))["after"][-1]["dry"] == 0


def test_it_learns_how_late_sound_comes_and_forgets_it_again(page):
    late = np.concatenate([np.random.default_rng(0).uniform(0, 0.15, 150), np.zeros(250)])
    result = play(page, late, pauses=8)
    after = result["after"]
    assert after[50]["dry"] <= 4 and after[149]["dry"] == after[50]["dry"]  # no more once it has learnt
    assert 0.11 < after[149]["target"] < 0.17
    assert after[-1]["target"] == pytest.approx(0.01, abs=0.001) and after[-1]["wait"] < 0.03
    assert result["skipped"] > 0.08
    assert result["least"] > 0  # every sample of speech at most once, in order
    speech = FRAME * sum(n % 20 >= 8 for n in range(400))
    assert speech - 2 * FRAME < result["count"] <= speech  # only silence was skipped


def test_what_waits_has_a_bound(page):
    late = np.zeros(100)
    late[50] = 5.0  # everything after it comes at once
    after = play(page, late)["after"]
    assert max(state["held"] for state in after) < 0.6


RESAMPLE = """async ([from, to, hz]) => {
  const { Resampler } = await import("/web/resample.js");
  const resampler = new Resampler(from, to), out = [];
  for (let done = 0; done < from / 2;) {
    const count = 1 + done % 300;
    out.push(...resampler.push(Float32Array.from({ length: count }, (_, i) => Math.sin(2 * Math.PI * hz * (done + i) / from))));
    done += count;
  }
  return [out, resampler.reach];
}"""


@pytest.mark.parametrize(("source", "target"), [(48_000, 24_000), (44_100, 24_000), (24_000, 44_100), (16_000, 24_000)])
def test_resampling_keeps_what_both_rates_hold_and_nothing_else(page, source, target):
    samples, reach = page.evaluate(RESAMPLE, [source, target, 3000])
    assert abs(len(samples) - target / 2) < target * 0.02
    t = np.arange(len(samples)) / target - reach / source
    np.testing.assert_allclose(samples[1000:], np.sin(2 * np.pi * 3000 * t)[1000:], atol=1e-4)
    if source > target:
        samples, _ = page.evaluate(RESAMPLE, [source, target, 13_500])  # above what the target can hold
        assert np.abs(samples[1000:]).max() < 0.003


ACTIVITY = """async (frames) => {
  const { Activity } = await import("/web/activity.js");
  const side = new Activity();
  return frames.map((amplitude) => side.hear(new Float32Array(1920).fill(amplitude)).speaking);
}"""


def test_speech_is_told_from_silence_and_from_steady_noise(page):
    spoke = page.evaluate(ACTIVITY, [0.0] * 10 + [0.1] * 5 + [0.0] * 2 + [0.1] * 5 + [0.0] * 10)
    assert spoke == [False] * 10 + [True] * 12 + [True] * 2 + [False] * 8  # a short pause belongs to it
    noise = page.evaluate(ACTIVITY, [0.01] * 100)
    assert not any(noise[-20:]) and page.evaluate(ACTIVITY, [0.01] * 100 + [0.2])[-1]


OGG = """async (lengths) => {
  const { OggReader, OggWriter } = await import("/web/ogg.js");
  const writer = new OggWriter(), reader = new OggReader();
  const packets = lengths.map((length) => Uint8Array.from({ length }, (_, i) => (7 * i + length) % 251));
  const pages = [...writer.head(24000), ...packets.map((packet) => writer.packet(packet, 0.04))];
  const found = pages.flatMap((page) => reader.packets(page));
  return JSON.stringify(found.map((x) => [...x])) === JSON.stringify(packets.map((x) => [...x]));
}"""


def test_ogg_pages_hold_packets_of_every_length(page):
    assert page.evaluate(OGG, [1, 254, 255, 256, 509, 510, 511, 1275])


READ = """async (pages) => {
  const { OggReader } = await import("/web/ogg.js");
  const reader = new OggReader();
  return pages.map((page) => reader.packets(Uint8Array.from(page)).map((packet) => packet.length));
}"""


def test_it_reads_what_sphn_writes(page):
    writer = sphn.OpusStreamWriter(RATE)
    pages = [list(writer.append_pcm(np.zeros(FRAME, np.float32))) for _ in range(3)]
    sizes = page.evaluate(READ, pages)
    assert [len(frame) for frame in sizes] == [2, 2, 2] and all(0 < size < 200 for frame in sizes for size in frame)


OPUS = """async (seconds) => {
  const { Opus } = await import("/web/codecs.js");
  const there = new Opus(24000, console.error), back = new Opus(24000, console.error), said = [], heard = [];
  there.onBytes = (bytes) => back.decode(bytes);
  back.onSound = (samples) => heard.push(...samples);
  for (let n = 0; n < seconds * 12.5; n++) {
    const frame = Float32Array.from({ length: 1920 }, (_, i) => 0.5 * Math.sin(((n * 1920 + i) / 24000 + 0.1) ** 2 * 6000));
    said.push(...frame);
    there.encode(frame);
  }
  await there.encoded();
  await back.decoded();
  there.close();
  back.close();
  return [said, heard];
}"""


def test_opus_gives_back_what_was_said_to_the_end(page):
    said, heard = map(np.array, page.evaluate(OPUS, 0.8))
    assert len(said) - 50 < len(heard) <= len(said) + 960  # the filter from 48 kHz holds a little; the last packet is filled up
    size = 1 << 17
    lag = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(said, size).conj(), size)[: len(heard)].argmax()
    assert 100 < lag < 400  # Opus takes 6.5 ms, the filter 0.7
    same, back = said[: len(heard) - lag], heard[lag : lag + len(said)]
    assert same @ back > 0.95 * np.linalg.norm(same) * np.linalg.norm(back)
