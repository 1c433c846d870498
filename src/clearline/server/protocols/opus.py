"""The PCM protocol with Ogg Opus in its binary messages: a tenth of the bytes, and all else the same."""

import numpy as np
import sphn

from clearline.errors import ConfigError
from clearline.server.protocols.base import Heard, Meaning, Message, ProtocolError
from clearline.server.protocols.kyutai import MAX_MESSAGE_BYTES, SAMPLE_RATE
from clearline.server.protocols.pcm import PcmProtocol


class OpusProtocol(PcmProtocol):
    """Binary messages hold whole Ogg pages of one Opus stream, mono, each way; text messages are those of PCM."""

    name = "opus"

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        if sample_rate != SAMPLE_RATE:
            raise ConfigError(f"Opus is sent at {SAMPLE_RATE} Hz; this model's codec works at {sample_rate} Hz")
        self._reader = sphn.OpusStreamReader(SAMPLE_RATE)
        self._writer = sphn.OpusStreamWriter(SAMPLE_RATE)

    def parse(self, message: Message) -> Meaning:
        if isinstance(message, str):
            return super().parse(message)
        if len(message) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes of Opus; this has {len(message)}")
        try:
            pcm = self._reader.append_bytes(message)
        except ValueError as error:
            raise ProtocolError(f"this is not Ogg Opus: {error}") from error
        return Heard(pcm) if pcm.size else None

    def encode(self, pcm: np.ndarray) -> bytes:
        encoded: bytes = self._writer.append_pcm(np.clip(pcm, -1.0, 1.0))
        return encoded
