"""Which codec a parameter gets."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch

from thinwire import _core


class CodecRules:
    """A codec for all, other codecs by name pattern, and vectors plain.

    The first pattern that fits a parameter's name decides; ``*`` stands for any text, dots too.
    Where none fits, parameters of at most one dimension (biases, norms) travel plain: they are few,
    and their gradients matter one by one.
    """

    def __init__(self, codec: str, patterns: Mapping[str, str] | None = None) -> None:
        self.codec = _core.parse_codec(codec)
        self.patterns = {p: _core.parse_codec(c) for p, c in (patterns or {}).items()}
        self._known: dict[str, str] = {}  # by name; asked for each bucket of each step

    def codec_of(self, name: str, parameter: torch.Tensor) -> str:
        if name not in self._known:
            self._known[name] = self._find(name, parameter)
        return self._known[name]

    def _find(self, name: str, parameter: torch.Tensor) -> str:
        for pattern, codec in self.patterns.items():
            if fnmatchcase(name, pattern):
                return codec
        return "none" if parameter.dim() <= 1 else self.codec

    def leave_plain(self, parameters: Mapping[str, torch.Tensor]) -> bool:
        """Whether none of these parameters is coded."""
        return all(self.codec_of(name, p) == "none" for name, p in parameters.items())

    def with_codec(self, codec: str) -> "CodecRules":
        return CodecRules(codec, self.patterns)
