"""What a codec leaves out of the gradients: measured in one step, when asked."""

from collections.abc import Callable, Iterable

import torch

from thinwire import _torch_private as private
from thinwire.torch._reducer import Named

Export = Callable[[], list[tuple[str, int, torch.Tensor]]]
"""Gives this rank's residuals: name of the parameter, offset in it, values."""


class ResidualProbe:
    """Measures the step after :meth:`ask`; idle at all other times.

    In a step the codec sees x = g + e of a rank's gradient g and residual e, sends v, and keeps
    e' = x - v. Known afterwards, over the parameters that have a residual:

        residual_ratio  |e'| / |g|          how many gradients the residual holds back
        contraction     |e'|^2 / |x|^2      what the codec lost of its input: 0 nothing, 1 all
    """

    def __init__(self, scaler: private.GradScaler | None) -> None:
        self._scaler = scaler
        self._asked = False
        self._residuals: dict[str, list[tuple[int, torch.Tensor]]] | None = None
        self._inputs: dict[str, tuple[float, float]] = {}
        self._squares: dict[str, tuple[float, float, float]] = {}

    def ask(self) -> None:
        self._asked = True

    def begin(self, export: Export) -> None:
        """Before the first bucket of a step."""
        if not self._asked:
            return
        self._asked, self._residuals, self._inputs = False, {}, {}
        for name, offset, values in export():
            self._residuals.setdefault(name, []).append((offset, values))

    def add(self, named: Named, buffer: torch.Tensor) -> None:
        """Before a bucket is submitted; ``buffer`` holds its gradients, scaled for the loss."""
        if self._residuals is None:
            return
        scale = private.loss_scale(self._scaler)
        start = 0
        for name, parameter in named:
            stop = start + parameter.numel()
            gradient = buffer[start:stop].to(torch.float32)
            if scale is not None:
                gradient = gradient / scale
            total = gradient.clone()
            for offset, values in self._residuals.get(name, []):
                total[offset : offset + values.numel()] += values.to(buffer.device)
            self._inputs[name] = (_square(gradient), _square(total))
            start = stop

    def end(self, export: Export, kept: bool) -> None:
        """After a step; ``kept``: it was not taken back."""
        if self._residuals is None:
            return
        self._residuals = None
        if not kept:
            return
        left: dict[str, float] = {}
        for name, _, values in export():
            left[name] = left.get(name, 0.0) + _square(values)
        self._squares = {
            name: (*self._inputs[name], square)
            for name, square in left.items()
            if name in self._inputs
        }

    def of(self, names: Iterable[str]) -> dict[str, float | None]:
        """Of these parameters together; None as long as nothing is known."""
        known = [self._squares[name] for name in names if name in self._squares]
        gradient, total, left = (sum(squares[i] for squares in known) for i in range(3))
        return {
            "residual_ratio": (left / gradient) ** 0.5 if gradient else None,
            "contraction": left / total if total else None,
        }


def _square(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
