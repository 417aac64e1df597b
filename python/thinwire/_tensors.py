"""What thinwire takes of a torch tensor: address, size and dtype."""

from typing import TYPE_CHECKING

from thinwire import _core
from thinwire.errors import UnsupportedTensor

if TYPE_CHECKING:
    import torch

_NAMES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


def dtype_name(tensor: "torch.Tensor") -> str:
    """ "f32", "f16" or "bf16"; empty for other dtypes."""
    return _NAMES.get(str(tensor.dtype), "")


def check_tensor(tensor: "torch.Tensor", what: str, rank: int, gpu: int = -1) -> None:
    """Raises UnsupportedTensor, naming ``what`` and the rank, unless the tensor can be reduced.

    ``gpu``: the index of the GPU whose tensors are taken; below 0, those of the CPU.
    """
    where = f"rank {rank}: '{what}'"
    if not all(hasattr(tensor, name) for name in ("data_ptr", "is_contiguous", "dtype", "device")):
        raise UnsupportedTensor(f"{where} is a {type(tensor).__name__}, not a torch tensor")
    if not dtype_name(tensor):
        raise UnsupportedTensor(
            f"{where} is {tensor.dtype}; use torch.float32, torch.float16 or torch.bfloat16"
        )
    if str(tensor.layout) != "torch.strided" or not tensor.is_contiguous():
        raise UnsupportedTensor(f"{where} is not contiguous; pass tensor.contiguous()")
    wanted = f"cuda:{gpu}" if gpu >= 0 else "cpu"
    if str(tensor.device) != wanted:
        raise UnsupportedTensor(
            f"{where} is on {tensor.device}, but this communicator reduces tensors on {wanted}"
            + other_device_hint(tensor.device.type)
        )


def other_device_hint(device_type: str) -> str:
    """How to get a communicator for such tensors; to follow what was wrong."""
    if device_type == "cpu":
        return "; thinwire.init(transport='gloo') or 'mpi' makes one for CPU tensors"
    if device_type != "cuda":
        return "; thinwire takes tensors on CPUs and NVIDIA GPUs"
    if not _core.build_info()["nccl"]:
        return (
            "; this thinwire has no GPU part: install it again where nvcc and nccl.h (NCCL_HOME) "
            "are, see docs/pytorch.md"
        )
    return "; thinwire.init(transport='nccl') makes one for the current GPU's tensors"
