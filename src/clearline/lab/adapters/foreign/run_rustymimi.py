"""`rustymimi`, Kyutai's codec in Rust: encodes frame by frame and decodes its own codes. The released shape only."""

from typing import Any

import numpy as np
import rustymimi
from job import Recording, main


def run(job: dict[str, Any], frames: np.ndarray) -> dict[str, np.ndarray]:
    # num_codebooks is not in its stub, but is in the program; 8 is what Moshi uses.
    tokenizer = rustymimi.Tokenizer(job["mimi"], num_codebooks=8)
    record = Recording()
    for frame in frames:
        codes = tokenizer.encode_step(frame[None, None])
        heard = tokenizer.decode_step(codes.astype(np.uint32))
        record.add(pcm_in=frame, codes_in=codes[0, :, 0], codes_out=codes[0, :, 0], pcm_out=heard[0, 0])
    return record.columns()


if __name__ == "__main__":
    main(run)
