"""Sign and top-k under Adam: bf16 until its second moment is frozen."""

import warnings
from collections.abc import Callable

import torch

from thinwire.errors import InvalidArgument
from thinwire.torch.adamw import AdamW

WARM_UP = "bf16"
"""As 1-bit Adam warms up, all but the bytes: after int4 the loss ends higher (docs/tuning.md)."""

_GAPS = {
    "sign": "the loss ends 3 to 18 % higher",
    "topk": "the loss ends 8 to 22 % higher",
}


def first_codec(
    codec: str,
    optimizer: torch.optim.Optimizer | None,
    switch_at: int | None,
    switch: Callable[[], None],
    warn: bool,
) -> str:
    """The codec to begin with; ``switch`` is called when it is time for ``codec`` itself.

    The optimizer says when: after ``switch_at`` steps, or by its own rule, or else when the second
    moment has settled. All ranks switch at the same step, since their second moments are the same.
    """
    gap = _GAPS.get(codec.split(":")[0].split("+")[0])
    if gap is None:
        if switch_at is not None:
            raise InvalidArgument(f"switch_at is for sign and topk, not for '{codec}'")
        return codec
    if isinstance(optimizer, AdamW):
        if optimizer.frozen:
            return codec
        if switch_at is not None:
            optimizer.freeze = switch_at
        elif optimizer.freeze is None:
            optimizer.freeze = "variance"
        optimizer.on_switch.append(lambda _: switch())
        return WARM_UP
    may_be_adam = optimizer is None or isinstance(optimizer, torch.optim.Adam)
    if warn and may_be_adam:
        warnings.warn(
            f"'{codec}' under Adam without its optimizer rule: {gap} on a small GPT "
            "(docs/tuning.md). Train with thinwire.torch.AdamW and pass optimizer=. Pass SGD too, "
            "if it has momentum",
            stacklevel=6,
        )
    return codec
