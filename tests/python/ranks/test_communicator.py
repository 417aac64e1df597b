import gc
import os
import time

import pytest
import thinwire
import thinwire.torch
import torch
import torch.distributed as dist
from conftest import DEVICE, ON_GPU, RANK, SIZE, TRANSPORT
from training import gathered, make_model


@pytest.fixture(scope="module")
def ranks():
    return thinwire.init(transport=TRANSPORT)


def values(seed: int = 0, numel: int = 3000, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(10 * seed + RANK)).to(
        DEVICE, dtype
    )


def test_init_again_gives_the_same_communicator(ranks):
    assert thinwire.init(transport=TRANSPORT) is ranks
    assert ranks.device == str(DEVICE)
    assert (ranks.rank, ranks.size) == (RANK, SIZE)
    host = os.environ.get("NCCL_HOSTID")
    assert ranks.local_size == gathered(host).count(host)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("op", ["sum", "avg", "max"])
def test_allreduce_of_exact_values_is_exact(ranks, dtype, op):
    tensor = torch.full((1001,), RANK + 1.0, dtype=dtype, device=DEVICE)
    ranks.allreduce(tensor, op=op)
    total = SIZE * (SIZE + 1) / 2
    assert (tensor == {"sum": total, "avg": total / SIZE, "max": SIZE}[op]).all()


@pytest.mark.parametrize("codec", ["bf16", "fp16", "int8", "int4", "sign", "topk:0.1"])
def test_allreduce_compressed_gives_the_same_bits_everywhere(ranks, codec):
    tensor = values()
    mean = torch.stack(gathered(tensor)).mean(0)
    ranks.allreduce(tensor, codec=codec)
    tensor = tensor.cpu()
    assert all(torch.equal(tensor, other) for other in gathered(tensor))
    worst = {"bf16": 0.01, "fp16": 0.004, "int8": 0.05, "int4": 0.6}
    assert (tensor - mean).abs().max() < worst.get(codec, 5)


def test_residual_makes_up_for_what_was_left_out(ranks):
    gradient = values(seed=1)
    mean = torch.stack(gathered(gradient)).mean(0)
    with_memory, without = torch.zeros(3000), torch.zeros(3000)
    for _ in range(30):
        a, b = gradient.clone(), gradient.clone()
        ranks.allreduce(a, codec="sign", residual="w")
        ranks.allreduce(b, codec="sign")
        with_memory += a.cpu() / 30
        without += b.cpu() / 30
    error, error_without = (with_memory - mean).norm(), (without - mean).norm()
    assert error < 0.25 * error_without


def test_async_works_are_complete_in_any_order_of_waiting(ranks):
    tensors = [torch.full((100 * (i + 1),), float(RANK), device=DEVICE) for i in range(5)]
    works = [ranks.allreduce(t, op="sum", async_op=True) for t in tensors]
    for work in reversed(works):
        work.wait()
        if ON_GPU:
            torch.cuda.synchronize()
        assert work.is_completed()
    assert all((t == SIZE * (SIZE - 1) / 2).all() for t in tensors)


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_reduce_scatter_and_all_gather_give_the_mean(ranks, codec):
    tensor = values(numel=500 * SIZE)
    mean = torch.stack(gathered(tensor)).mean(0)
    part, back = torch.empty(500, device=DEVICE), torch.empty(500 * SIZE, device=DEVICE)
    ranks.reduce_scatter(part, tensor, codec=codec)
    ranks.all_gather(back, part, codec="none")
    assert (back.cpu() - mean).abs().max() < (1e-5 if codec == "none" else 0.05)
    ranks.all_gather(back, part, codec=codec)
    assert all(torch.equal(back.cpu(), other) for other in gathered(back))


def test_split_reduces_within_its_group(ranks):
    child = ranks.split(RANK % 2, -RANK)
    tensor = torch.full((10,), float(RANK), device=DEVICE)
    child.allreduce(tensor, op="max")
    assert tensor[0] == max(r for r in range(SIZE) if r % 2 == RANK % 2)
    child.close()
    assert ranks.split(-1) is None


def test_a_child_outlives_its_parents():
    parent = thinwire.init(dist.group.WORLD, transport=TRANSPORT)
    child = parent.split(0)
    parent.close()
    grandchild = child.split(0)
    child.close()
    del parent, child
    gc.collect()
    tensor = torch.full((10,), float(RANK), device=DEVICE)
    grandchild.allreduce(tensor, op="max")
    assert (tensor == SIZE - 1).all()
    grandchild.close()


@pytest.mark.parametrize("by", ["split", "compress"])
def test_splits_come_after_what_is_under_way(ranks, by):
    numel = {"split": 4001, "compress": 4002}[by]
    known, new = torch.ones(numel, device=DEVICE), torch.ones(numel + 1000, device=DEVICE)
    model = make_model()
    ranks.allreduce(known)
    dist.barrier()
    works = []
    if RANK == 0:  # the others make `known` late: `new`, whose size is compared, still waits then
        works = [ranks.allreduce(tensor, async_op=True) for tensor in (known, new)]
    else:
        time.sleep(0.3)
        ranks.allreduce(known)
        ranks.allreduce(new)
    made = ranks.split(0) if by == "split" else thinwire.torch.compress(model, "int8")
    made.close()
    for work in works:
        work.wait()


def test_calls_of_a_closed_communicator_say_so():
    closed = thinwire.init(dist.group.WORLD, transport=TRANSPORT)
    closed.close()
    for call in (closed.barrier, lambda: closed.split(0), lambda: closed.abort("late")):
        with pytest.raises(thinwire.AbortedError, match="closed"):
            call()


def test_sizes_share_threads_and_sockets(ranks, only_cpu):
    def use(part: int) -> None:
        whole, mine = torch.ones(SIZE * part), torch.ones(part)
        ranks.allreduce(whole, codec="int8")
        ranks.reduce_scatter(mine, whole, codec="int8")
        ranks.all_gather(whole, mine, codec="int8")

    def held() -> list[int]:
        return [len(os.listdir(f"/proc/self/{of}")) for of in ("task", "fd")]

    use(700)
    before = held()
    for part in range(701, 709):
        use(part)
    assert all(now <= then for now, then in zip(held(), before, strict=True)), (before, held())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(4, dtype=torch.int32), "int32"),
        (torch.zeros(4, dtype=torch.float64), "float64"),
        (torch.zeros(4, 4).t()[:2], "not contiguous"),
        (torch.zeros(4, device="meta"), "meta"),
        ([1.0, 2.0], "list"),
        pytest.param(
            torch.zeros(4),
            "is on cpu, but .*gloo",
            marks=pytest.mark.skipif(not ON_GPU, reason="needs GPUs"),
        ),
    ],
)
def test_tensors_of_the_wrong_kind_name_what_and_the_rank(ranks, tensor, words):
    with pytest.raises(TypeError, match=words) as raised:
        ranks.allreduce(tensor)
    assert isinstance(raised.value, thinwire.UnsupportedTensor)
    assert f"rank {RANK}: 'tensor'" in str(raised.value)


def test_bad_arguments_are_value_errors(ranks):
    with pytest.raises(ValueError, match="codec 'sgin'"):
        ranks.allreduce(values(), codec="sgin")
    with pytest.raises(ValueError, match="op must be avg"):
        ranks.allreduce(values(), codec="sign", op="sum")
    with pytest.raises(ValueError, match="1/"):
        ranks.reduce_scatter(
            torch.empty(7, device=DEVICE), torch.empty(7 * SIZE + 1, device=DEVICE)
        )
    with pytest.raises(ValueError, match="transport"):
        thinwire.init(transport="pigeon")


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_sizes_that_differ_raise_on_every_rank_and_leave_it_usable(ranks, codec):
    with pytest.raises(thinwire.MismatchError) as raised:
        ranks.allreduce(torch.zeros(100 + RANK, device=DEVICE), codec=codec)
    assert {str(100), str(101)} & {raised.value.mine, raised.value.theirs} or "100" in str(
        raised.value
    )
    ranks.barrier()


def test_abort_reaches_every_rank_with_its_reason(may_abort):
    doomed = thinwire.init(dist.group.WORLD, transport=TRANSPORT).split(0)
    if RANK == SIZE - 1:
        doomed.abort("out of paper")
    with pytest.raises(thinwire.AbortedError, match="out of paper") as raised:
        for _ in range(1000):
            doomed.barrier()
    assert raised.value.peer == SIZE - 1
    assert isinstance(raised.value, ConnectionError)
    doomed.close()
    with pytest.raises(thinwire.AbortedError, match="closed"):
        doomed.allreduce(torch.zeros(3, device=DEVICE))


def test_a_communicator_ends_without_its_peers(only_cpu):
    doomed = thinwire.init(dist.group.WORLD, transport="gloo")
    doomed.allreduce(torch.zeros(3))  # sizes are compared
    if RANK > 0:
        work = doomed.allreduce(torch.zeros(3), async_op=True)  # rank 0 makes no such call
        time.sleep(0.3)  # until gloo has it
        doomed.abort("rank 0 does not come")
        with pytest.raises(thinwire.AbortedError):
            work.wait()
        del work
        doomed.close()
        gc.collect()
    dist.barrier()  # has a time-out, as has gloo's call, which would end much later
    doomed.close()
