"""The shift sweep as a check: do the semantic and the acoustic codes of a frame belong together?"""

import numpy as np

from clearline.errors import ClearlineError
from clearline.generate import Codec
from clearline.lab.align import align
from clearline.lab.doctor.alignment import DELAY_REMEDY
from clearline.lab.doctor.finding import LIKELY, Chart, Finding
from clearline.lab.judge import judge


def sweep_codes(codec: Codec, codes: np.ndarray, chart: Chart, boundary: str = "codes_out", *, listen: bool = False) -> bool | None:
    """The shift sweep on codes [K, T] of one speaker, which needs nothing but the codec; listen: the judge is asked too, who
    can tell where the codec cannot. True: aligned; None: cannot tell."""
    try:
        found = align(codec, codes, listen=judge if listen else None)
    except ClearlineError as error:
        chart.unknown("shift sweep", str(error))
        return None
    if found.shift is None:
        chart.unknown("shift sweep", found.verdict)
        return None
    if found.shift == 0:
        chart.passed("shift sweep", found.verdict)
        return True
    chart.found(
        Finding(
            "acoustic-delay",
            "wrong tokens",
            boundary,
            f"the acoustic codebooks belong {abs(found.shift)} frame{'s' * (abs(found.shift) > 1)} "
            f"{'later' if found.shift > 0 else 'earlier'} "
            f"than they are: the acoustic delay that was undone is {abs(found.shift)} too "
            f"{'large' if found.shift > 0 else 'small'}, "
            "every frame is decoded from codes that do not belong together",
            found.verdict,
            DELAY_REMEDY,
            LIKELY,
        )
    )
    return False
