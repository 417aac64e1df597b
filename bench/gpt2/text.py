"""Real text that every machine has: the source of Python's own standard library."""

import hashlib
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Text:
    """Bytes for tokens. The last twentieth of the files (in an order without meaning) validates."""

    def __init__(self, megabytes: float, device: torch.device | str = "cpu") -> None:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [
            path
            for path in root.rglob("*.py")
            if _LEFT_OUT.isdisjoint(path.relative_to(root).parts)
        ]
        files.sort(key=lambda path: hashlib.sha1(str(path.relative_to(root)).encode()).digest())
        most = int(megabytes * 1e6)
        read = bytearray()
        for path in files:
            if len(read) >= most:
                break
            read += path.read_bytes()
        everything = torch.frombuffer(read[:most], dtype=torch.uint8).to(device)
        cut = len(everything) * 19 // 20
        self._parts = {"train": everything[:cut], "valid": everything[cut:]}
        self.bytes = len(everything)

    def batch(
        self, part: str, generator: torch.Generator, sequences: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """(tokens, targets), int64, (sequences, length) each, from random places; on the device."""
        data = self._parts[part]
        starts = torch.randint(len(data) - length - 1, (sequences, 1), generator=generator)
        places = starts.to(data.device, non_blocking=True)
        window = data[places + torch.arange(length + 1, device=data.device)].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()
