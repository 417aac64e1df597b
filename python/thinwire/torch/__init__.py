"""Compressed gradient exchange for torch's DistributedDataParallel and FSDP2: docs/pytorch.md.

handle = thinwire.torch.compress(ddp_model, "int8")
"""

from thinwire.torch._fsdp import ReplicaHandle, replicate
from thinwire.torch._handle import Handle
from thinwire.torch._hook import compress, ddp_hook
from thinwire.torch._metrics import MetricsLogger
from thinwire.torch._shard_comms import ShardComms, shard_comms
from thinwire.torch._state import merge_states
from thinwire.torch.adamw import AdamW

__all__ = [
    "AdamW",
    "Handle",
    "MetricsLogger",
    "ReplicaHandle",
    "ShardComms",
    "compress",
    "ddp_hook",
    "merge_states",
    "replicate",
    "shard_comms",
]
