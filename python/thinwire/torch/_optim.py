"""AdamW whose second moment can be frozen, as sign and top-k need it."""

from collections.abc import Callable
from typing import Any

import torch

_FROZEN = "frozen_at"


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW until :meth:`freeze_second_moment`; the same state_dict keys.

    Compressed to signs or to few entries, gradients still average to what they should (error
    feedback), but their squares do not: an Adam that goes on to square them loses its step sizes.
    So the second moment, and its bias correction, stay as they are from the switch on (1-bit Adam,
    Tang et al. 2021, with the gradient coded instead of the momentum).
    """

    @property
    def frozen(self) -> bool:
        return any(group.get(_FROZEN) is not None for group in self.param_groups)

    def freeze_second_moment(self) -> None:
        """From the next step on. Needs at least one step before it.

        Elements that had no gradient yet (dead units, or too small for the codec) take the mean
        of their parameter: divided by eps alone, the first sign they are sent would throw them off.
        """
        steps = {int(state["step"]) for state in self.state.values()}
        if not steps:
            raise RuntimeError("the second moment is empty: take a step before freezing it")
        for group in self.param_groups:
            group[_FROZEN] = max(steps)
        for state in self.state.values():
            for key in ("exp_avg_sq", "max_exp_avg_sq"):
                if key in state:
                    second = state[key]
                    second.masked_fill_(second == 0, float(second.mean()))

    def second_moment_norm(self) -> float:
        """The L1 norm of the second moment, bias-corrected: when it settles, it may be frozen."""
        total = 0.0
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state:
                    corrected = 1 - beta2 ** int(state["step"])
                    total += float(state["exp_avg_sq"].sum(dtype=torch.float64)) / corrected
        return total

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if not self.frozen:
            return super().step(closure)
        return self._frozen_step(closure)

    @torch.no_grad()
    def _frozen_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(group, parameter)
        return loss

    def _update(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        state = self.state[parameter]
        if not state:  # it had no gradient before the switch: no second moment, no step
            return
        beta1, beta2 = group["betas"]
        learning_rate = float(group["lr"])
        assert parameter.grad is not None
        gradient = -parameter.grad if group["maximize"] else parameter.grad
        state["step"] += 1
        if group["weight_decay"] != 0:
            parameter.mul_(1 - learning_rate * group["weight_decay"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        frozen_at = min(group[_FROZEN], int(state["step"]) - 1)
        correction = (1 - beta2**frozen_at) ** 0.5
        denominator = (second.sqrt() / correction).add_(group["eps"])
        rate = learning_rate / (1 - beta1 ** int(state["step"]))
        parameter.addcdiv_(state["exp_avg"], denominator, value=-rate)
