"""The language model as a stream: user codes of one frame in, text token and audio tokens of one step out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from clearline.config import GenerationConfig
from clearline.config.lm import UNGENERATED, ZERO_TOKEN, LMConfig
from clearline.errors import SessionError
from clearline.generate.delays import TokenGrid, effective_delays
from clearline.generate.guess import whole_inputs
from clearline.generate.noise import Noise
from clearline.generate.programs import LMPrograms
from clearline.generate.sampler import sample
from clearline.ops import Leaf


@dataclass(frozen=True)
class LMFrame:
    """Everything one step produced.

    text_token and audio_tokens int64 [dep_q] were sampled (or forced) at this step; `codes` int64 [1 + dep_q] is the
    newest aligned row (None during the first max_delay steps). Logits are as the model gave them, before sampling:
    text_logits [text_card_out]; audio_logits [dep_q, card], NaN where every token was forced and the depformer did not
    run. hidden [dim] is the temporal transformer's output; extra_heads [n, dim] are probabilities.
    """

    step: int
    row: np.ndarray
    hidden: np.ndarray
    text_logits: np.ndarray
    text_token: int
    audio_logits: np.ndarray | None
    audio_tokens: np.ndarray | None
    codes: np.ndarray | None
    extra_heads: np.ndarray | None


@dataclass(frozen=True)
class StepPlan:
    """A step before anything of it is computed.

    row int64 [1 + n_q] is fed; given int64 [1 + dep_q] are the text and audio tokens that nobody has to draw, UNGENERATED the
    others; ahead [1 + dep_q] is what the aligned row after it will be, UNGENERATED where it waits for a draw (None: there is
    none yet); prompted: the tokens are a prompt's.
    """

    frame: int
    row: np.ndarray
    given: np.ndarray
    ahead: np.ndarray | None
    prompted: bool


class Generator:
    """Kyutai's `LMGen`: delays, sampling and teacher forcing around the two transformers. One instance per session."""

    def __init__(self, programs: LMPrograms, config: GenerationConfig, session: int = 0, guide: LMPrograms | None = None) -> None:
        """`guide`: the same model under the condition to be guided away from, when config.guidance is not 1."""
        if guide is None and config.guidance != 1:
            raise SessionError(f"guidance {config.guidance:g} needs a model with conditions, which this one has not")
        self._programs = programs
        self._guide = None if guide is None else _Guide(guide, config.guidance)
        self._cfg = programs.cfg
        self._config = config
        self._delays = effective_delays(self._cfg, config.acoustic_delay)
        self._grid = TokenGrid(self._cfg, self._delays, config.user_offset)
        self._noise = Noise(config.seed, session)
        self._state = programs.temporal_state()
        self._depth_state = programs.depth_state()
        self._spoken: list[int] = []
        self.whole = programs.whole(config.text, config.audio) if guide is None else None  # see clearline.generate.guess

    @property
    def max_delay(self) -> int:
        return self._grid.max_delay

    def step(
        self,
        user_codes: np.ndarray,
        force_text: int | None = None,
        force_audio: Sequence[int] | np.ndarray | None = None,
        prompt: np.ndarray | None = None,
    ) -> LMFrame:
        """One 80 ms step.

        user_codes: int [n_user] or more (a codec with more codebooks: the first n_user are used); -1 means no input.
        force_text, force_audio [dep_q]: teacher forcing; -2 in place of a token means "sample this one".
        prompt: text and audio tokens int [1 + dep_q] of one frame, which the model says from this step on, each stream at
        its delay. Raises SessionError for a wrong shape or a token out of range.
        """
        codes = checked_tokens(user_codes, self._cfg.user_streams, self._cfg.card, "user codes")
        plan = self.plan(codes, force_text, force_audio, prompt)
        return self.conclude(plan, self._transformers(plan))

    def plan(
        self,
        user_codes: np.ndarray | int,
        force_text: int | None = None,
        force_audio: Sequence[int] | np.ndarray | None = None,
        prompt: np.ndarray | None = None,
    ) -> StepPlan:
        """What the next step is fed and what it may not draw; arguments as of `step`, user_codes [n_user] or HEARD."""
        cfg = self._cfg
        text, forced = self.checked_force(force_text, force_audio)
        if prompt is not None:
            said = [
                checked_tokens(prompt[:1], 1, cfg.text_card, "prompt"),
                checked_tokens(prompt[1:], cfg.dep_q, cfg.card, "prompt"),
            ]
            self._grid.prompt_own(np.concatenate(said))
        prompted = self._grid.prompted()
        if text == UNGENERATED:
            text = int(prompted[0])
        if forced is None and (prompted[1:] != UNGENERATED).any():
            forced = prompted[1:]
        self._grid.write_user(user_codes)
        given = np.append(text, self._given_audio(self._grid.step, forced))
        return StepPlan(self._grid.step, self._grid.row(), given, self._grid.read_ahead(given), prompt is not None)

    def hear(self, plan: StepPlan, user_codes: np.ndarray) -> StepPlan:
        """The plan whose user codes were HEARD, now that they [n_user or more] are known."""
        self._grid.write_user(user_codes[: self._cfg.user_streams])
        return replace(plan, row=self._grid.row())

    def conclude(self, plan: StepPlan, out: dict[str, np.ndarray]) -> LMFrame:
        """The rest of a step whose transformers gave `out`: sampling, and the depformer where nobody has run it yet."""
        cfg, text = self._cfg, int(plan.given[0])
        hidden, text_logits = out["hidden"][0], out["text_logits"][0]
        if self._guide is not None:
            text_logits = self._guide.text(plan.row, text_logits)
        if text == UNGENERATED:
            text = sample(text_logits, self._config.text, self._noise, plan.frame, 0, cfg.text_padding, self._spoken)
        if not plan.prompted:
            self._remember(text)
        audio_logits, audio = self._depth(plan.frame, out, text, plan.given[1:])
        self._grid.write_own(text, np.zeros(0, np.int64) if audio is None else audio)
        heads = [softmax(out[f"extra_heads.{k}"][0]) for k in range(cfg.extra_heads)]
        return LMFrame(
            plan.frame, plan.row, hidden, text_logits, text, audio_logits, audio, self._grid.read(),
            np.stack(heads) if heads else None,
        )  # fmt: skip

    def sayable(self, row: np.ndarray | None) -> bool:
        """Whether the codec can say the audio codes of an aligned row [1 + dep_q]: no initial token is among them."""
        return row is not None and self._cfg.dep_q > 0 and bool((row[1:] < self._cfg.card).all())

    def replay(self, embeddings: np.ndarray, tokens: np.ndarray, on_step: Callable[[], None] = lambda: None) -> None:
        """Steps whose inputs are given as sums of embeddings, float [steps, dim], and then the tokens that end them.

        tokens int [streams, 1 + max_delay]: those of the step after the last one, and of the steps that its delays reach.
        """
        for embedding in embeddings:
            self._programs.embedded.run(self._state, {"embedding": embedding[None]})
            on_step()
        self._grid.jump(len(embeddings), tokens)

    def checked_force(
        self, force_text: int | None, force_audio: Sequence[int] | np.ndarray | None
    ) -> tuple[int, np.ndarray | None]:
        """Forced tokens of a step, looked at before anything changes: a refused step has not happened."""
        return checked_force(self._cfg, force_text, force_audio)

    def _given_audio(self, frame: int, force: np.ndarray | None) -> np.ndarray:
        """The audio tokens [dep_q] of a step that nobody has to draw, UNGENERATED for the others."""
        cfg = self._cfg
        if force is None and self._config.pad_early_acoustic and cfg.dep_q:
            early = frame < np.asarray(self._delays[1 : cfg.dep_q + 1])
            return np.where(early, cfg.card, UNGENERATED)
        return np.full(cfg.dep_q, UNGENERATED) if force is None else force

    def _transformers(self, plan: StepPlan) -> dict[str, np.ndarray]:
        """The temporal step's outputs; with it a guess at the depformer's, where the backend can make one."""
        if self.whole is None or (plan.given[1:] != UNGENERATED).all():
            return self._programs.temporal.run(self._state, {"row": plan.row[None]})
        with self.whole_state() as state:
            return self.whole.run(state, self.whole_inputs(plan))

    def whole_inputs(self, plan: StepPlan) -> dict[str, np.ndarray]:
        """The inputs of `whole`."""
        how = (self._config.text, self._config.audio)
        given = whole_inputs(how, plan.row, plan.given, self._noise, plan.frame, self._cfg)
        return given if plan.ahead is None else given | {"said": plan.ahead[None, 1:]}

    @contextmanager
    def whole_state(self) -> Iterator[dict[str, Leaf]]:
        """The state of `whole`, which is that of both transformers: what becomes of its leaves becomes of theirs."""
        parts = {"temporal": self._state, "depth": self._depth_state}
        joint = {f"{part}.{path}": leaf for part, leaves in parts.items() for path, leaf in leaves.items()}
        yield joint
        for part, leaves in parts.items():
            leaves.update({path: joint[f"{part}.{path}"] for path in leaves})

    def _depth(
        self, frame: int, out: dict[str, np.ndarray], text: int, given: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        cfg = self._cfg
        if cfg.dep_q == 0:
            return None, None
        tokens, hidden = given.copy(), out["hidden"]
        logits = np.full((cfg.dep_q, cfg.card), np.nan, hidden.dtype)
        if (tokens != UNGENERATED).all():
            return logits, tokens
        if self._guide is not None:
            self._guide.begin_depth()
        previous, guess = text, out.get("guess")
        for k, program in enumerate(self._programs.depth):
            token = np.array([previous])
            if guess is not None and previous == guess[k]:
                logits[k] = out["audio_logits"][k]
            else:
                guess = None  # whatever was guessed after a wrong token is wrong
                self._depth_state["position"] = np.full(1, k)
                logits[k] = program.run(self._depth_state, {"hidden": hidden, "token": token})["logits"][0]
            if self._guide is not None:
                logits[k] = self._guide.audio(k, token, logits[k])
            if tokens[k] == UNGENERATED:
                tokens[k] = sample(logits[k], self._config.audio, self._noise, frame, k + 1)
            previous = int(tokens[k])
        return logits, tokens

    def _remember(self, text: int) -> None:
        if text not in (self._cfg.text_padding, self._cfg.text_end_padding, self._cfg.text_card):
            self._spoken.append(text)
            del self._spoken[: -max(1, self._config.text.repetition_context)]


def checked_force(
    cfg: LMConfig, force_text: int | None, force_audio: Sequence[int] | np.ndarray | None
) -> tuple[int, np.ndarray | None]:
    """The forced text token (-2: none) and audio tokens [dep_q] (None: none). Raises SessionError for what cannot be forced."""
    text = UNGENERATED if force_text is None else int(checked_tokens([force_text], 1, cfg.text_card, "forced text")[0])
    audio = None if force_audio is None else checked_tokens(force_audio, cfg.dep_q, cfg.card, "forced audio")
    return text, audio


def checked_tokens(tokens: Sequence[int] | np.ndarray, count: int, card: int, what: str) -> np.ndarray:
    """The first `count` tokens as int64. Raises SessionError for a wrong shape or a token out of range."""
    values = np.asarray(tokens)
    if values.ndim != 1 or values.shape[0] < count or values.dtype.kind not in "iu":
        raise SessionError(f"{what}: expected {count} whole numbers, got {values.dtype} {list(values.shape)}")
    values = values[:count].astype(np.int64)
    lowest = ZERO_TOKEN if what == "user codes" else UNGENERATED
    if values.size and not (lowest <= values.min() and values.max() <= card):
        raise SessionError(f"{what}: tokens must lie in {lowest}..{card}, got {values.min()}..{values.max()}")
    return values


class _Guide:
    """Classifier-free guidance: the same steps under the condition to get away from, logits moved from theirs."""

    def __init__(self, programs: LMPrograms, strength: float) -> None:
        self._programs = programs
        self._strength = strength
        self._state = programs.temporal_state()
        self._depth_state = programs.depth_state()
        self._hidden = np.zeros(0)

    def text(self, row: np.ndarray, logits: np.ndarray) -> np.ndarray:
        out = self._programs.temporal.run(self._state, {"row": row[None]})
        self._hidden = out["hidden"]
        return self._moved(out["text_logits"][0], logits)

    def begin_depth(self) -> None:
        self._depth_state["position"] = np.zeros(1, np.int64)

    def audio(self, k: int, token: np.ndarray, logits: np.ndarray) -> np.ndarray:
        out = self._programs.depth[k].run(self._depth_state, {"hidden": self._hidden, "token": token})
        return self._moved(out["logits"][0], logits)

    def _moved(self, worse: np.ndarray, better: np.ndarray) -> np.ndarray:
        moved: np.ndarray = worse + (better - worse) * self._strength
        return moved


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [n]."""
    weights = np.exp(logits - logits.max())
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities
