"""Hugging Face's Trainer with compressed gradients: README.md."""

import argparse
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import thinwire.torch
import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

LENGTH = 64


class Compress(TrainerCallback):
    """The one line, where the trainer has wrapped its model in DDP."""

    def __init__(self, trainer: Trainer, codec: str) -> None:
        self.trainer = trainer
        self.codec = codec

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.handle = thinwire.torch.compress(self.trainer.model_wrapped, self.codec)


class Bytes(Dataset):
    """Of Python's own library: nothing is downloaded."""

    def __init__(self) -> None:
        library = Path(sysconfig.get_paths()["stdlib"])
        self.source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))

    def __len__(self) -> int:
        return len(self.source) // LENGTH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.tensor(list(self.source[index * LENGTH : (index + 1) * LENGTH]))
        return {"input_ids": row, "labels": row}


options = argparse.ArgumentParser()
options.add_argument("--codec", default="auto")
options.add_argument("--steps", type=int, default=200)
arguments = options.parse_args()

config = GPT2Config(
    vocab_size=256,
    n_positions=LENGTH,
    n_embd=64,
    n_layer=2,
    n_head=4,
    bos_token_id=0,
    eos_token_id=0,
)
with tempfile.TemporaryDirectory() as folder:
    settings = TrainingArguments(
        output_dir=folder,
        max_steps=arguments.steps,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        ddp_find_unused_parameters=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(GPT2LMHeadModel(config), settings, train_dataset=Bytes())
    compress = Compress(trainer, arguments.codec)
    trainer.add_callback(compress)
    result = trainer.train()

if trainer.is_world_process_zero():
    print(compress.handle.explain())
    ranks = trainer.accelerator.num_processes
    print(f"{arguments.steps} steps on {ranks} ranks: mean loss {result.training_loss:.2f}")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
