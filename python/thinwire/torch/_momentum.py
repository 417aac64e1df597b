"""The optimizer's momentum goes through the codec, not the gradient."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thinwire import _torch_private as private
from thinwire.torch._rules import CodecRules
from thinwire.torch.adamw import AdamW

CODECS = ("sign", "topk")
"""Those whose single steps are far from the gradient; what they send is right over time only."""


class CodedMomentum:
    """1-bit Adam (Tang et al. 2021) in a gradient's clothes, and the same for SGD.

    There a worker codes m' = beta1 m + (1 - beta1) g, and the mean of the decoded m' becomes m. As
    every rank knows m, this is the same up to rounding, a factor of 1 / (1 - beta1) left out:

        g + c m,  c = beta1 / (1 - beta1),  is coded with error feedback and averaged;
        c m is subtracted again, so that the optimizer makes of the rest what came back as m.

    So gradients stay gradients: residuals keep their unit when the codec changes, a loss scale is a
    factor of both terms, and any number of backwards a step is right. For torch.optim.SGD, whose m'
    is momentum m + (1 - dampening) g, c = momentum / (1 - dampening).

    The momentum is added once AdamW is frozen, under SGD from the first, for fp32 parameters that
    the optimizer has seen and whose codec is one of CODECS. All ranks hold the same m.
    """

    def __init__(
        self, optimizer: AdamW | torch.optim.SGD, scaler: private.GradScaler | None
    ) -> None:
        self._optimizer = optimizer
        self._scaler = scaler
        self._group_of: dict[Tensor, int] = {}  # the number of a parameter's group
        self._groups = 0

    def add(
        self,
        named: Sequence[tuple[str, Tensor]],
        gradients: Sequence[Tensor],
        rules: CodecRules,
    ) -> Callable[[], None] | None:
        """Adds c m to the gradients of these parameters in place, on the current stream.

        The gradient of a shard may be longer than it, by rows of padding.

        Returns what subtracts it again; None if there is nothing to add.
        """
        key = "momentum_buffer"
        if isinstance(self._optimizer, AdamW):
            key = "exp_avg"
            if not self._optimizer.frozen:
                return None
        chosen: list[Tensor] = []
        momenta: list[Tensor] = []
        scales: list[float] = []
        for (name, parameter), gradient in zip(named, gradients, strict=True):
            momentum = self._optimizer.state.get(parameter, {}).get(key)
            factor = self._factor(parameter)
            if momentum is None or factor == 0 or gradient.dtype != torch.float32:
                continue
            if rules.codec_of(name, parameter).startswith(CODECS):
                local = _local(momentum)
                chosen.append(gradient[: len(local)])
                momenta.append(local)
                scales.append(factor)
        if not chosen:
            return None
        shares = torch._foreach_mul(momenta, scales)
        loss_scale = private.loss_scale(self._scaler)
        if loss_scale is not None:
            torch._foreach_mul_(shares, loss_scale.to(shares[0].device))
        torch._foreach_add_(chosen, shares)

        def subtract() -> None:
            for share in shares:
                if share.is_cuda:  # of autograd's stream, and freed when this has been called
                    share.record_stream(torch.cuda.current_stream(share.device))
            torch._foreach_sub_(chosen, shares)

        return subtract

    def _factor(self, parameter: Tensor) -> float:
        """Its c; below 0 if the optimizer maximizes, whose m is that of -g; 0 for a stranger."""
        groups = self._optimizer.param_groups
        if len(groups) != self._groups:
            self._groups = len(groups)
            self._group_of = {p: i for i, group in enumerate(groups) for p in group["params"]}
        number = self._group_of.get(parameter)
        if number is None:
            return 0.0
        group = groups[number]  # looked up each time: schedulers change it, loading replaces it
        if "betas" in group:
            decay = float(group["betas"][0])
            fresh = 1 - decay
        else:
            decay, fresh = group["momentum"], 1 - group["dampening"]
        factor = float(decay / fresh) if fresh else 0.0
        return -factor if group["maximize"] else factor


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds of a DTensor."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
