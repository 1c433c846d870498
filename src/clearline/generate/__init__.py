"""Generation: token alignment, keyed randomness, sampling, and the session that turns one frame into the next."""

from clearline.generate.codec import Codec, CodecStream
from clearline.generate.generator import Generator, LMFrame
from clearline.generate.persona import Persona
from clearline.generate.programs import LMPrograms
from clearline.generate.result import Result
from clearline.generate.session import Batch, Frame, Session

__all__ = ["Batch", "Codec", "CodecStream", "Frame", "Generator", "LMFrame", "LMPrograms", "Persona", "Result", "Session"]
