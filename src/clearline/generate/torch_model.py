"""Both transformers for a fixed batch of lanes, with guidance where it is wanted, on tensors that stay where they are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clearline.backends.torch_graph import clear, donate
from clearline.backends.torch_ring import TorchRing
from clearline.backends.torch_run import Torch
from clearline.generate.programs import LMPrograms
from clearline.model import Depformer, Moshi
from clearline.ops import Array, Leaf, Ops, State, Weights


class TorchModel:
    """The state of `lanes` lanes, and their steps.

    With `guide`, the same model under the condition to be guided away from, a lane is two rows of every tensor: row i under
    the model's condition, row `lanes` + i under the guide's.
    """

    def __init__(self, programs: LMPrograms, lanes: int, guide: LMPrograms | None) -> None:
        assert isinstance(programs.backend, Torch)
        self.lanes, self._rows = lanes, lanes if guide is None else 2 * lanes
        self._cfg, self._backend, self._weights = programs.cfg, programs.backend, Weights(programs.weights)
        self._guide = None if guide is None else Weights(guide.weights)
        self._moshi = Moshi(programs.cfg)
        self._depformer = Depformer(programs.cfg) if programs.cfg.dep_q else None
        device = self._backend.weights.device
        self._temporal = self._backend.lanes(self._moshi.state(self._rows), full=True)
        self._depth = {} if self._depformer is None else self._backend.lanes(self._depformer.state(self._rows), full=True)
        self._depth_leaves: dict[str, Leaf] = {}
        # Step k of the depformer is at position k in every frame: masks are made once.
        at = [torch.full((self._rows,), k, device=device) for k in range(programs.cfg.dep_q)]
        self._depth_at = [(position, self._backend.ops()) for position in at]
        self.strength = torch.ones(lanes, 1, dtype=torch.float64, device=device)

    @property
    def guided(self) -> bool:
        return self._guide is not None

    @property
    def states(self) -> tuple[dict[str, Leaf], ...]:
        return (self._temporal, self._depth)

    @property
    def rings(self) -> list[TorchRing]:
        """Those of the temporal transformer, which grow with the past."""
        return [leaf for leaf in self._temporal.values() if isinstance(leaf, TorchRing)]

    def begin(self, lane: int, guidance: float) -> None:
        """Make a lane as before its first step."""
        for row in range(lane, self._rows, self.lanes):
            for state in self.states:
                clear(state, row)
        self.strength[lane] = guidance

    def pretend(self, position: int) -> None:
        """Put every lane at a position (for measuring)."""
        self._temporal["position"].fill_(position)

    def temporal(self, row: Tensor, active: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """A step of the active lanes (bool [B]) on row [B, streams]: the outputs of `Moshi`, and `hidden` for `depth`."""
        step = self._moshi.step if self._guide is None else self._guided_step
        outputs, new = self._backend.call(step, self._weights, self._temporal, {"row": row})
        donate(self._temporal, new, self._in_rows(active))
        hidden = outputs["hidden"]
        outputs["text_logits"] = self._guided(outputs["text_logits"])
        self._depth_leaves = dict(self._depth)
        return {name: x[: self.lanes] for name, x in outputs.items()}, hidden

    def replay(self, embedding: Tensor, active: Tensor) -> None:
        """A step of the active lanes on a summed embedding [1, dim] in place of rows; nothing comes of it but state."""
        given = {"embedding": embedding.expand(self._rows, -1)}
        _, new = self._backend.call(self._moshi.embedded_step, self._weights, self._temporal, given)
        donate(self._temporal, new, self._in_rows(active))

    def depth(self, k: int, hidden: Tensor, token: Tensor) -> Tensor:
        """Logits [B, card] of codebook k after `token` [B]; k in order, after `temporal`."""
        assert self._depformer is not None
        position, ops = self._depth_at[k]
        given = {"hidden": hidden, "token": self._in_rows(token)}
        leaves = self._depth_leaves | {"position": position}
        outputs, new = self._backend.call(self._depformer.step(k), self._weights, leaves, given, ops)
        self._depth_leaves |= new
        return self._guided(outputs["logits"])

    def _guided_step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The two conditions differ in their text embeddings, and then in everything: embedded apart, they step together."""
        assert self._guide is not None
        rows = ops.concat([self._moshi.embed(ops, weights, inputs["row"]) for weights in (w, self._guide)], 0)
        return self._moshi.embedded_step(ops, w, s, {"embedding": ops.reshape(rows, (self._rows, self._cfg.transformer.dim))})

    def _guided(self, logits: Tensor) -> Tensor:
        """Logits [B, card], moved from those of the guide's rows; float32 at least, as on the host."""
        if self._guide is None:
            return logits
        better, worse = logits.to(torch.promote_types(logits.dtype, torch.float32)).chunk(2)
        return torch.where(self.strength == 1, better, worse + (better - worse) * self.strength.to(better.dtype))

    def _in_rows(self, x: Tensor) -> Tensor:
        """[B] -> [rows]."""
        return x if self._guide is None else x.repeat(2)
