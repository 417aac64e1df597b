"""Accelerate with compressed gradients, on the bytes of Python's own library: README.md."""

import argparse
import sysconfig
from pathlib import Path

import thinwire.torch
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LENGTH = 64


class NextByte(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 64)
        self.recur = nn.GRU(64, 128, batch_first=True)
        self.head = nn.Linear(128, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """The mean loss of each byte after the first, in nats."""
        states, _ = self.recur(self.embed(text[:, :-1]))
        return nn.functional.cross_entropy(self.head(states).flatten(0, 1), text[:, 1:].flatten())


options = argparse.ArgumentParser()
options.add_argument("--codec", default="auto")
options.add_argument("--steps", type=int, default=200)
arguments = options.parse_args()

torch.manual_seed(0)
library = Path(sysconfig.get_paths()["stdlib"])
source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
rows = torch.frombuffer(bytearray(source[: len(source) // LENGTH * LENGTH]), dtype=torch.uint8)
data = DataLoader(TensorDataset(rows.view(-1, LENGTH).long()), batch_size=32, shuffle=True)

accelerator = Accelerator(cpu=not torch.cuda.is_available())
model = NextByte()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
model, optimizer, data = accelerator.prepare(model, optimizer, data)
handle = thinwire.torch.compress(model, arguments.codec)  # the one line, after prepare()

for number, (text,) in enumerate(data, 1):
    optimizer.zero_grad()
    loss = model(text)
    accelerator.backward(loss)
    optimizer.step()
    if number == arguments.steps:
        break

mean = accelerator.reduce(loss.detach(), reduction="mean")
accelerator.print(handle.explain())
accelerator.print(f"{number} steps on {accelerator.num_processes} ranks: loss {mean.item():.2f}")
accelerator.end_training()
