"""Sign and top-k under Adam: bf16 until its second moment is frozen."""

import operator
import warnings
from typing import Any

import torch

from thinwire.errors import InvalidArgument
from thinwire.torch._momentum import CODECS
from thinwire.torch._rules import CodecRules
from thinwire.torch.adamw import AdamW

WARM_UP = "bf16"
"""As 1-bit Adam warms up, all but the bytes: after int4 the loss ends higher (docs/tuning.md)."""

_GAPS = {"sign": "39 % higher", "topk": "31 % higher"}


def unwrapped(optimizer: Any) -> torch.optim.Optimizer | None:
    """The optimizer inside a trainer's wrapper (Accelerate's has it as .optimizer)."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer  # type: ignore[no-any-return]


class WarmUp:
    """Which codecs are in force: the rules' own, or bf16 in place of sign and top-k until then.

    The optimizer says when: after ``switch_at`` steps, or by its own rule, or else when the second
    moment has settled. All ranks switch at the same step, since their second moments are the same.
    It is asked, not listened to: it may be frozen by a checkpoint too.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer | None, switch_at: int | None, *, warn: bool
    ) -> None:
        self._optimizer = optimizer
        self._switch_at = switch_at
        self._warn = warn
        if switch_at is None:
            return
        try:
            self._switch_at = operator.index(switch_at)
        except TypeError:
            raise InvalidArgument(f"switch_at={switch_at!r}: give a number of steps") from None
        if self._switch_at < 1:
            raise InvalidArgument(f"switch_at={switch_at}: give a number of steps, 1 or more")
        if not isinstance(optimizer, AdamW):
            raise InvalidArgument(
                "switch_at is when a thinwire.torch.AdamW freezes its second moment; optimizer= "
                f"is {'not given' if optimizer is None else f'a {type(optimizer).__name__}'}"
            )

    def refuse_idle_switch(self, rules: CodecRules) -> None:
        """Raises InvalidArgument for a switch_at with codecs that need no warm-up."""
        if self._switch_at is not None and not _in_need(rules):
            raise InvalidArgument(f"switch_at is for sign and topk, not for '{rules.codec}'")

    def begin(self, rules: CodecRules) -> None:
        """``rules`` are in force from now on: arms the optimizer, or warns, where they need it."""
        codecs = _in_need(rules)
        if not codecs:
            return
        if isinstance(self._optimizer, AdamW):
            if self._optimizer.frozen:
                return
            if self._switch_at is not None:
                self._optimizer.freeze = self._switch_at
            elif self._optimizer.freeze is None:
                self._optimizer.freeze = "variance"
        elif self._warn and not isinstance(self._optimizer, torch.optim.SGD):
            self._warn = False
            gap = _GAPS["sign" if codecs[0].startswith("sign") else "topk"]
            warnings.warn(
                f"'{codecs[0]}' without its optimizer rule: under Adam the loss of a small GPT "
                f"ended {gap} (docs/tuning.md). Train with thinwire.torch.AdamW and pass "
                "optimizer=. Pass SGD too, if it has momentum",
                stacklevel=5,
            )

    def current(self, rules: CodecRules) -> CodecRules:
        """What ``rules`` come to now."""
        if isinstance(self._optimizer, AdamW) and not self._optimizer.frozen:
            return rules.with_instead_of(CODECS, WARM_UP)
        return rules


def _in_need(rules: CodecRules) -> list[str]:
    return [codec for codec in rules.all_codecs() if codec.startswith(CODECS)]
