"""A small model, its data by rank, and training of it."""

import thinwire.torch
import torch
import torch.distributed as dist
from conftest import DEVICE
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


class Net(nn.Module):
    """Blocks of several sizes, short parameters, a norm, and one parameter used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(48)
        self.hidden = nn.Linear(48, 48)
        self.twice = nn.Linear(48, 48, bias=False)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.embed(x)))
        x = torch.relu(self.twice(torch.relu(self.hidden(x))))
        return self.head(self.twice(x))


def make_model(seed: int = 0, **options) -> DDP:
    torch.manual_seed(seed)
    options.setdefault("bucket_cap_mb", 0.01)  # several buckets
    return DDP(Net().to(DEVICE), **options)


def batch(step: int, rank: int | None = None) -> torch.Tensor:
    rank = dist.get_rank() if rank is None else rank
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(4, 16, generator=generator, device="cpu").to(DEVICE)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    return model(batch(step)).square().mean()


def train(model: DDP, steps, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def trained(codec: str | None, steps=range(4), ddp=None, **options) -> DDP:
    """A model after training; codec None: DDP without a hook."""
    model = make_model(**(ddp or {}))
    if codec is not None:
        thinwire.torch.compress(model, codec, **options)
    train(model, steps)
    return model


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def same_on_ranks(model: nn.Module) -> bool:
    flat = torch.cat([p.detach().flatten().float() for p in model.parameters()])
    root = flat.clone()
    dist.broadcast(root, 0)
    return torch.equal(flat, root)


def gathered(value):
    """Every rank's value; tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        value = value.cpu()
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
