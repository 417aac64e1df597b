"""When sign and top-k may begin under Adam."""

import math
import warnings
from collections import deque

import torch

from thinwire.torch._optim import AdamW

_GAPS = {
    "sign": "the loss ends 3 to 18 % higher",
    "topk": "the loss ends 8 to 22 % higher",
}


def needs_rule(codec: str) -> bool:
    return codec.split(":")[0].split("+")[0] in _GAPS


def warn_without_rule(codec: str) -> None:
    gap = _GAPS[codec.split(":")[0].split("+")[0]]
    warnings.warn(
        f"'{codec}' under Adam without its optimizer rule: {gap} on a small GPT (docs/tuning.md). "
        "Train with thinwire.torch.AdamW and pass optimizer=. Under SGD, ignore this",
        stacklevel=5,
    )


class VarianceSwitch:
    """Says when the second moment has settled.

    Its L1 norm, over 1 / (1 - beta2) steps, changes by less than 4 %: the criterion of 1-bit Adam
    (Tang et al. 2021, section 5). ``switch_at`` gives the step instead. The norm is the same on
    all ranks, because their parameters and gradients are: all switch at the same step.
    """

    def __init__(self, optimizer: AdamW, switch_at: int | None) -> None:
        self._optimizer = optimizer
        self._switch_at = switch_at
        window = 1 / (1 - max(group["betas"][1] for group in optimizer.param_groups))
        self._every = max(1, math.ceil(window / 10))
        self._norms: deque[float] = deque(maxlen=11)
        self._steps = 0

    def after_step(self) -> bool:
        """After an optimizer step: whether to switch now."""
        self._steps += 1
        if self._switch_at is not None:
            return self._steps >= self._switch_at
        if self._steps % self._every != 0:
            return False
        self._norms.append(self._optimizer.second_moment_norm())
        oldest, newest = self._norms[0], self._norms[-1]
        full = len(self._norms) == self._norms.maxlen
        return full and oldest > 0 and 0.96 <= newest / oldest <= 1 / 0.96

    def state(self) -> dict[str, object]:
        return {"steps": self._steps, "norms": torch.tensor(list(self._norms), dtype=torch.float64)}

    def load(self, state: dict[str, object]) -> None:
        norms = state["norms"]
        assert isinstance(norms, torch.Tensor)
        self._steps = int(state["steps"])  # type: ignore[call-overload]
        self._norms = deque(norms.tolist(), maxlen=11)
