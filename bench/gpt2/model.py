"""GPT-2 (Radford et al. 2019), compact: pre-norm blocks, tied embedding, no dropout."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Size:
    layers: int
    heads: int
    width: int
    context: int
    """Tokens of a sequence."""
    vocabulary: int
    batch: int
    """Sequences of a rank in a step."""
    learning_rate: float


SIZES = {
    "tiny": Size(2, 4, 128, 64, 512, batch=4, learning_rate=2e-3),
    "small": Size(6, 6, 384, 256, 512, batch=16, learning_rate=1e-3),
    # The text has bytes for tokens; GPT-2's vocabulary stays, so that the gradient has its size. It
    # is padded to a multiple of 64, as is usual: the product with 50257 columns takes 4 times as
    # long, and would hide the exchange.
    "124M": Size(12, 12, 768, 1024, 50304, batch=8, learning_rate=6e-4),
}


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1 = nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.attention_out = nn.Linear(size.width, size.width)
        self.norm2 = nn.LayerNorm(size.width)
        self.up = nn.Linear(size.width, 4 * size.width)
        self.down = nn.Linear(4 * size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        up = functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(up)


class GPT2(nn.Module):
    """forward(tokens, targets), both (batch, length) int64: the mean cross-entropy in nats."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                into_residual = name.endswith(("attention_out.weight", "down.weight"))
                deviation = 0.02 / (2 * size.layers) ** 0.5 if into_residual else 0.02
                nn.init.normal_(parameter, std=deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def embedding_share(model: GPT2) -> float:
    """The part of the gradient that is ready last: the tied embedding's, and the positions'."""
    late = model.tokens.weight.numel() + model.positions.weight.numel()
    return late / sum(parameter.numel() for parameter in model.parameters())
