"""AdamW whose second moment can be frozen, as the codecs sign and top-k need it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

_FROZEN_AT = "frozen_at"
_NORMS = "second_moment_norms"
_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")
_SETTLED = 0.96
_SAMPLES = 10


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW up to the switch; from then on the second moment v is a constant.

    Under sign and top-k the averaged gradient g is right over time (error feedback), but its square
    is not: an Adam that goes on to square it loses its step sizes. So, as in 1-bit Adam (Tang et
    al. 2021), v stops at the switch, after step T. Here g is the averaged gradient as it came out
    of the codec; both moments are the same on all ranks. At the switch, once:

        v  <-  v_T / (1 - beta2^T)              (max_exp_avg_sq alike under amsgrad)

    and at each step t > T:

        p  <-  p (1 - lr weight_decay)
        m  <-  beta1 m + (1 - beta1) g
        p  <-  p - lr m / (1 - beta1^t) / (sqrt(v) + eps)

    T is counted for each parameter (steps in which it had a gradient). An element whose v is 0 at
    the switch (never a gradient, or all too small for the warm-up's codec) takes the mean of its
    parameter's other elements, and a parameter without any, also one that gets its first gradient
    later, the mean of all: divided by eps alone, the first sign it is sent would throw it off.

    ``freeze`` says when: ``None``, only by :meth:`freeze_second_moment`; a number, after that many
    steps; ``"variance"``, when ``|v|_1`` of all parameters together, bias-corrected, has changed by
    less than 4 % over 1 / (1 - beta2) steps (the criterion of 1-bit Adam). The warm-up of the
    learning rate should be over by then. ``on_switch`` is a list of callables that get the
    optimizer after it has switched, within step(); the place to change the codec:

        optimizer = AdamW(model.parameters(), lr=3e-4, freeze="variance")
        optimizer.on_switch.append(lambda _: handle.set_codec("sign"))

    All other arguments, the updates before the switch (to the bit) and the keys of the state are
    torch's; parameter groups hold two more entries, ``frozen_at`` and ``second_moment_norms``. So
    plain AdamW loads the state, and goes on from v as an average that is already complete; and
    this class loads plain AdamW's. Loading restores the switch and calls nobody. Copies and pickles
    keep ``freeze`` but not ``on_switch``.

    Ranks switch at the same step because their v is the same; where devices differ in kind, a sum
    may differ in its last bit: give a number there. In a captured CUDA graph nothing switches by
    itself: call :meth:`freeze_second_moment` between replays and capture anew.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        freeze: int | Literal["variance"] | None = None,
    ) -> None:
        if not (freeze in (None, "variance") or (isinstance(freeze, int) and freeze > 0)):
            raise ValueError(f"freeze={freeze!r}: give a number of steps, 'variance' or None")
        self.freeze = freeze
        self.on_switch: list[Callable[[AdamW], object]] = []
        self._steps: int | None = None
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )

    @property
    def frozen(self) -> bool:
        return any(group[_FROZEN_AT] is not None for group in self.param_groups)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.frozen:
            return self._frozen_step(closure)
        loss = _unhooked_step()(self, closure)
        self._steps = self._count_steps() if self._steps is None else self._steps + 1
        if self._is_due():
            self.freeze_second_moment()
        return loss

    @torch.no_grad()
    def freeze_second_moment(self) -> None:
        """Switches now, on all ranks alike; the next step is the first with v as it is.

        Needs a step before it. Does nothing when the switch has been.
        """
        if self.frozen:
            return
        steps = self._count_steps()
        if steps == 0:
            raise RuntimeError("the second moment is empty: take a step before freezing it")
        if any(group["differentiable"] for group in self.param_groups):
            raise RuntimeError("differentiable=True has no frozen second moment")
        for group, _, state in self._states():
            if (taken := int(state["step"])) > 0:
                for key in _SECOND_MOMENTS:
                    if key in state:
                        state[key].div_(1 - float(group["betas"][1]) ** taken)
        for key in _SECOND_MOMENTS:
            moments = [_real(state[key]) for _, _, state in self._states() if key in state]
            typical = _mean_of_live(moments)
            for moment in moments:
                live = moment != 0
                if not bool(live.all()):
                    mean = _mean_of_live([moment]) if bool(live.any()) else typical
                    # Not masked_fill_: torch 2.9 has none for a DTensor, nor count_nonzero.
                    moment.add_((~live).to(moment.dtype), alpha=mean)
        for group in self.param_groups:
            group[_FROZEN_AT] = steps
            group[_NORMS] = []
        self._leave_scaling_to_the_scaler()
        for callback in self.on_switch:
            callback(self)

    @torch.no_grad()
    def second_moment_norm(self) -> float:
        """|v|_1 over all parameters, bias-corrected. Waits for the device."""
        total = 0.0
        for group, _, state in self._states():
            if (taken := int(state["step"])) > 0:
                sum_of_squares = float(_real(state["exp_avg_sq"]).sum(dtype=torch.float64))
                total += sum_of_squares / (1 - float(group["betas"][1]) ** taken)
        return total

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; after the switch the new group has a frozen second moment too."""
        super().add_param_group(param_group)
        self._complete_groups()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "freeze": self.freeze}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.setdefault("freeze", None)
        self.__dict__.setdefault("on_switch", [])
        self._steps = None
        self._complete_groups()
        self._leave_scaling_to_the_scaler()

    def _complete_groups(self) -> None:
        for group in self.param_groups:
            group.setdefault(_FROZEN_AT, self.param_groups[0].get(_FROZEN_AT))
            group.setdefault(_NORMS, [])

    def _leave_scaling_to_the_scaler(self) -> None:
        """Fused Adam unscales and skips in its kernel, which a frozen step does not have."""
        if self.frozen:
            self._step_supports_amp_scaling = False

    def _states(self) -> Iterable[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if state := self.state.get(parameter):
                    yield group, parameter, state

    def _count_steps(self) -> int:
        return max((int(state["step"]) for _, _, state in self._states()), default=0)

    def _is_due(self) -> bool:
        assert self._steps is not None
        if self.freeze is None:
            return False
        if isinstance(self.freeze, int):
            if self._steps < self.freeze:
                return False
            self._steps = self._count_steps()  # a fused step may have been skipped on the device
            return self._steps >= self.freeze
        window = 1 / (1 - max(float(group["betas"][1]) for group in self.param_groups))
        if self._steps % max(1, round(window / _SAMPLES)) != 0:
            return False
        # Kept in the state, so that a resumed run switches where the unbroken one does.
        norms = [*self.param_groups[0][_NORMS], self.second_moment_norm()][-_SAMPLES - 1 :]
        self.param_groups[0][_NORMS] = norms
        low, high = sorted((norms[0], norms[-1]))
        return len(norms) > _SAMPLES and low > 0 and low >= _SETTLED * high

    @torch.no_grad()
    def _frozen_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] = self._late_state(group, parameter)
            foreach = group["foreach"]
            if foreach is None:  # torch's default: where it is quick
                foreach = all(parameter.is_cuda for parameter in parameters)
            for together in [parameters] if foreach else [[p] for p in parameters]:
                if together:
                    self._update(group, together)
        return loss

    def _late_state(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        device = parameter.device if group["capturable"] or group["fused"] else "cpu"
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(parameter),
        }
        for key in _SECOND_MOMENTS[: 2 if group["amsgrad"] else 1]:
            known = [_real(other[key]) for _, _, other in self._states() if key in other]
            state[key] = torch.zeros_like(parameter)
            _real(state[key]).fill_(_mean_of_live(known))
        return state

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        second_moment = _SECOND_MOMENTS[1 if group["amsgrad"] else 0]
        weights = [_real(parameter) for parameter in parameters]
        gradients = [_real(p.grad) for p in parameters if p.grad is not None]
        first = [_real(state["exp_avg"]) for state in states]
        second = [_real(state[second_moment]) for state in states]
        steps = [state["step"] for state in states]
        beta1, rate = float(group["betas"][0]), group["lr"]
        on_host = all(step.device.type == "cpu" for step in steps)
        if on_host:
            rate = float(rate)

        if group["maximize"]:
            gradients = list(torch._foreach_neg(gradients))
        torch._foreach_add_(steps, 1)
        if group["weight_decay"] != 0:
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, group["eps"])
        if on_host:
            rates = [-rate / (1 - beta1 ** int(step)) for step in steps]
            torch._foreach_addcdiv_(weights, first, denominators, rates)
        else:  # all on the device, so that the host does not wait: times (beta1^t - 1) / lr
            corrections = torch._foreach_pow(beta1, steps)
            torch._foreach_sub_(corrections, 1)
            torch._foreach_div_(corrections, rate)
            torch._foreach_mul_(denominators, corrections)
            torch._foreach_addcdiv_(weights, first, denominators)


def _real(tensor: Tensor) -> Tensor:
    """Adam takes the two parts of a complex number for two numbers."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _mean_of_live(moments: Sequence[Tensor]) -> float:
    """The mean of the elements that are not 0; 0 without any."""
    total = sum(float(moment.sum(dtype=torch.float64)) for moment in moments)
    return total / max(1, sum(int((moment != 0).sum()) for moment in moments))


def _unhooked_step() -> Callable[..., Any]:
    """torch's step without the layer that runs step hooks: ours has its own, and they run once."""
    step: Any = torch.optim.AdamW.step
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return step  # type: ignore[no-any-return]
