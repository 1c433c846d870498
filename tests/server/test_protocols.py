"""The adapters alone: what a message means, and that no message whatever makes them fall over."""

import json

import numpy as np
import pytest
import sphn

from clearline.config import GenerationConfig, Sampling, preset
from clearline.errors import ConfigError
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols import EndOfInput, Heard, PcmProtocol, ProtocolError, Welcome
from clearline.server.protocols.kyutai import MAX_MESSAGE_BYTES, KyutaiProtocol
from clearline.server.settings import kyutai_settings, settings
from clearline.server.state import End

BASE = GenerationConfig()
WELCOME = Welcome(3, "nano", GenerationConfig(seed=2**63 + 1), "greedy", 24_000, 1920)


def tone(frames: int) -> np.ndarray:
    return (0.3 * np.sin(np.arange(1920 * frames) * 0.05)).astype(np.float32)


def test_pcm_there_and_back():
    protocol = PcmProtocol()
    heard = protocol.parse(b"\x00\x80\xff\x7f\x00\x00")
    assert isinstance(heard, Heard) and heard.pcm.dtype == np.float32
    assert heard.pcm.tolist() == [-1.0, 32767 / 32768, 0.0]
    assert protocol.encode(np.array([-1.0, 1.0, 0.0, 3.0, -3.0])) == np.array([-32768, 32767, 0, 32767, -32768], "<i2").tobytes()
    assert protocol.parse(b"") is None
    assert isinstance(protocol.parse('{"type": "end"}'), EndOfInput)


@pytest.mark.parametrize("message", [b"abc", "end", "[]", '{"type": "begin"}', "{}", "[" * 100_000, '{"type": ' + "9" * 5000 + "}"])
def test_pcm_messages_that_mean_nothing(message):
    with pytest.raises(ProtocolError):
        PcmProtocol().parse(message)


def test_what_a_pcm_client_is_told():
    protocol = PcmProtocol()
    (ready,) = protocol.welcome(WELCOME)
    assert json.loads(ready) == {
        "type": "ready", "session": 3, "model": "nano", "preset": "greedy", "seed": str(2**63 + 1), "sample_rate": 24_000,
        "frame_size": 1920,
    }  # fmt: skip
    text, first, sound = protocol.reply(Reply(7, b"12", " héllo"))
    assert json.loads(first) == {"type": "first_sound", "frame": 7}
    assert protocol.reply(Reply(8, b"34", "")) == [b"34"]
    assert json.loads(text) == {"type": "text", "text": " héllo", "frame": 7} and sound == b"12"
    assert protocol.reply(Reply(9, b"", "")) == []
    (notice,) = protocol.notice(Notice("draining", "soon"))
    assert json.loads(notice) == {"type": "notice", "code": "draining", "message": "soon"}
    assert json.loads(protocol.farewell(Ended(End.FINISHED, ""))[0]) == {"type": "end"}
    (refusal,) = protocol.farewell(Ended(End.REFUSED, "full"), 10)
    assert json.loads(refusal) == {"type": "error", "code": "refused", "message": "full", "retry_seconds": 10}


def test_kyutai_sound_both_ways():
    protocol, writer, reader = KyutaiProtocol(24_000), sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    pcm, heard, back = tone(20), [], []
    for frame in pcm.reshape(-1, 1920):
        said = protocol.parse(b"\x01" + writer.append_pcm(frame))
        heard.append(said.pcm if isinstance(said, Heard) else np.zeros(0))
        (message,) = protocol.reply(Reply(0, protocol.encode(frame), ""))
        assert message[0] == 1
        back.append(reader.append_bytes(message[1:]))
    for decoded in (np.concatenate(heard), np.concatenate(back)):
        assert abs(len(decoded) - len(pcm)) <= 1920
        # Opus delays by a few milliseconds; where the two match best, they match well.
        match = np.correlate(decoded[4800:9600], pcm[4000:9600], "valid")
        assert match.max() / np.sum(pcm[4800:9600] ** 2) > 0.9


def test_kyutai_messages_by_their_bytes():
    protocol = KyutaiProtocol(24_000)
    assert protocol.welcome(WELCOME) == [bytes(9)]
    assert protocol.reply(Reply(0, b"OggS", " hé")) == [b"\x01OggS", b"\x02 h\xc3\xa9"]
    assert protocol.farewell(Ended(End.REFUSED, "full"), 10) == [b"\x05full"]
    assert protocol.farewell(Ended(End.FINISHED, "")) == []
    for kind in (0, 2, 3, 4, 5, 6, 7, 255):  # unknown types are discarded, says rust/protocol.md
        assert protocol.parse(bytes([kind]) + b"anything") is None
    assert protocol.parse(b"") is None
    with pytest.raises(ProtocolError, match="not Ogg Opus"):
        protocol.parse(b"\x01" + bytes(100))
    with pytest.raises(ProtocolError, match="binary"):
        protocol.parse("hello")
    with pytest.raises(ProtocolError, match="8192 bytes; this has 8193"):
        protocol.parse(b"\x01" + bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(ConfigError, match="16000 Hz"):
        KyutaiProtocol(16_000)


def test_settings_of_both_kinds():
    chosen = settings({"preset": "greedy", "seed": "7", "temperature": "0.5", "text_top_k": "3"}, BASE)
    expected = preset("greedy")
    assert chosen.seed == 7 and chosen.first_frame == expected.first_frame
    assert chosen.audio == Sampling(temperature=0.5) and chosen.text == Sampling(temperature=0.0, top_k=3)
    web_client = {
        "text_temperature": "0.6", "text_topk": "20", "audio_temperature": "0.9", "audio_topk": "100", "pad_mult": "0",
        "text_seed": "12", "audio_seed": "13", "repetition_penalty_context": "64", "repetition_penalty": "1", "email": "a@b",
    }  # fmt: skip
    chosen = kyutai_settings(web_client, BASE)
    assert chosen.text == Sampling(0.6, 20, repetition_penalty=1.0, repetition_context=64)
    assert chosen.audio == Sampling(0.9, 100) and chosen.seed == 12


@pytest.mark.parametrize(
    "query, message",
    [
        ({"sead": "1"}, "no setting 'sead'"), ({"seed": "-1"}, "seed is '-1'"), ({"seed": "9" * 5000}, "whole number"),
        ({"seed": str(2**64)}, "2\\^64-1"), ({"seed": "٣"}, "whole number"), ({"temperature": "nan"}, "temperature is nan"),
        ({"temperature": "hot"}, "must be a number"), ({"top_k": "1.5"}, "whole number"), ({"preset": "x" * 999}, "no preset"),
        ({"top_p": "2"}, "top-p is 2"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(query, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        settings(query, BASE)
    assert len(str(refusal.value)) < 400
