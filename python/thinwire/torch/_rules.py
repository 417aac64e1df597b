"""Which codec a parameter gets."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch

from thinwire import _core
from thinwire.errors import InvalidArgument


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
        self._instead: tuple[tuple[str, ...], CodecRules] | None = None

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

    def refuse_idle_patterns(self, names: Iterable[str]) -> None:
        """Raises InvalidArgument for a pattern that fits no name: it is misspelt."""
        known = list(names)
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                example = f", for example '{known[0]}'" if known else ""
                raise InvalidArgument(
                    f"codecs: '{pattern}' fits none of the {len(known)} parameters{example}"
                )

    def all_codecs(self) -> list[str]:
        return [self.codec, *self.patterns.values()]

    def with_codec(self, codec: str) -> "CodecRules":
        return CodecRules(codec, self.patterns)

    def with_instead_of(self, kinds: tuple[str, ...], codec: str) -> "CodecRules":
        """These rules with ``codec`` instead of each of ``kinds``; the same object each time.

        They themselves if they have none of these.
        """
        if not any(known.startswith(kinds) for known in self.all_codecs()):
            return self
        if self._instead is None or self._instead[0] != (*kinds, codec):
            swap = {c: codec if c.startswith(kinds) else c for c in self.all_codecs()}
            rules = CodecRules(swap[self.codec], {p: swap[c] for p, c in self.patterns.items()})
            self._instead = (*kinds, codec), rules
        return self._instead[1]
