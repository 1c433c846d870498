"""What the two programs for moshi_mlx share."""

from typing import Any

import mlx.core as mx


def stacked(tensors: dict[str, Any]) -> dict[str, Any]:
    """moshi_mlx reads the older of Kyutai's two namings only, where the projections of all steps are one tensor."""
    out = {name: value for name, value in tensors.items() if "_projs." not in name}
    parts: dict[str, dict[int, Any]] = {}
    for name, value in tensors.items():
        if "_projs." in name:
            stem, _, rest = name.partition("_projs.")
            older = f"{stem}_proj_weight" if stem.endswith("in") else f"{stem}_proj.weight"
            parts.setdefault(older, {})[int(rest.split(".")[0])] = value
    return out | {name: mx.concatenate([steps[i] for i in sorted(steps)]) for name, steps in parts.items()}
