"""Lightning on Fashion-MNIST with compressed gradients: README.md."""

import argparse
import gzip
import os
from pathlib import Path

import lightning
import numpy
import thinwire.torch
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Compress(lightning.Callback):
    """The one line, where DDP has just wrapped the model. The same on CPUs and on GPUs."""

    def __init__(self, codec: str) -> None:
        self.codec = codec

    def on_fit_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        self.handle = thinwire.torch.compress(trainer.strategy.model, self.codec)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def read(folder: Path, part: str) -> TensorDataset:
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = numpy.frombuffer(images, numpy.uint8).reshape(-1, 784) / numpy.float32(255)
    return TensorDataset(torch.from_numpy(pixels), torch.tensor(list(labels)))


options = argparse.ArgumentParser()
options.add_argument("--codec", default="auto")
options.add_argument("--steps", type=int, default=300)
options.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
arguments = options.parse_args()

lightning.seed_everything(0)
compress = Compress(arguments.codec)
trainer = lightning.Trainer(
    accelerator="gpu" if torch.cuda.is_available() else "cpu",
    devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),  # torchrun has started them
    strategy=DDPStrategy(),
    callbacks=[compress],
    max_steps=arguments.steps,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
model = Classifier()
trainer.fit(model, DataLoader(read(arguments.data, "train"), batch_size=64, shuffle=True))

if trainer.is_global_zero:
    images, labels = read(arguments.data, "t10k").tensors
    with torch.no_grad():
        right = (model.cpu().net(images).argmax(1) == labels).float().mean()
    print(compress.handle.explain())
    print(f"{arguments.steps} steps on {trainer.world_size} ranks: accuracy {100 * right:.1f} %")
