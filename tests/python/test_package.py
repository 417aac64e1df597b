"""What needs no ranks."""

import builtins
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import thinwire
import thinwire.torch
import torch
from thinwire.torch._rules import CodecRules

PACKAGE = Path(thinwire.__file__).parent


def test_build_info_says_what_there_is():
    info = thinwire.build_info()
    assert info["version"] == thinwire.__version__
    assert {"cuda", "nccl", "mpi", "simd", "compiler"} <= info.keys()
    assert isinstance(info["cuda"], bool)


def test_import_needs_no_torch_and_starts_no_mpi():
    code = (
        "import sys, thinwire; assert 'torch' not in sys.modules; "
        "assert 'libmpi' not in open('/proc/self/maps').read()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_of_vendors_is_linked():
    for library in (*PACKAGE.glob("_core*.so"), *PACKAGE.glob("libthinwire.so*")):
        needed = subprocess.run(
            ["readelf", "-d", library], check=True, capture_output=True, text=True
        ).stdout
        needed = [line for line in needed.splitlines() if "(NEEDED)" in line]
        assert needed
        for vendor in ("nccl", "mpi", "cuda", "cublas", "torch", "c10"):
            assert not any(f"lib{vendor}" in line for line in needed), (library, vendor)


def test_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


@pytest.mark.parametrize(
    ("error", "base"),
    [
        ("InvalidArgument", "ValueError"),
        ("UnsupportedTensor", "TypeError"),
        ("Unsupported", "RuntimeError"),
        ("OutOfMemory", "MemoryError"),
        ("FormatError", "ValueError"),
        ("IoError", "OSError"),
        ("MismatchError", "ValueError"),
        ("NonFiniteError", "ArithmeticError"),
        ("TransportError", "ConnectionError"),
        ("TimeoutError", "TimeoutError"),
        ("AbortedError", "ConnectionError"),
    ],
)
def test_errors_have_the_bases_that_callers_expect(error, base):
    assert issubclass(getattr(thinwire, error), (thinwire.Error, getattr(builtins, base)))
    assert issubclass(getattr(thinwire, error), thinwire.Error)
    assert issubclass(getattr(thinwire, error), getattr(builtins, base))


def test_init_without_a_launcher_says_how_to_start():
    code = "import thinwire\ntry: thinwire.init()\nexcept ValueError as e: print(e)"
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert "torchrun, mpirun or srun" in done.stdout


def test_rules_take_the_first_pattern_and_leave_vectors_plain():
    rules = CodecRules("int4", {"*.embed*": "bf16", "*": "sign"})
    matrix, vector = torch.zeros(3, 3), torch.zeros(3)
    assert rules.codec_of("net.embed.weight", matrix) == "bf16"
    assert rules.codec_of("net.bias", vector) == "sign"
    rules = CodecRules("int4")
    assert rules.codec_of("net.bias", vector) == "none"
    assert rules.codec_of("net.weight", matrix) == "int4"
    assert rules.with_codec("sign").codec_of("net.weight", matrix) == "sign"
    with pytest.raises(ValueError, match="int5"):
        CodecRules("int5")


def train(optimizer_type, steps, parameters=None, state=None, **options):
    torch.manual_seed(0)
    weights = parameters or [torch.randn(20, 10), torch.randn(10)]
    weights = [w.clone().requires_grad_() for w in weights]
    optimizer = optimizer_type(weights, lr=0.01, **options)
    if state:
        optimizer.load_state_dict(state)
    for step in steps:
        for i, w in enumerate(weights):
            w.grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(2 * step + i))
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"amsgrad": True}])
def test_adamw_is_torchs_until_frozen(options):
    ours, optimizer = train(thinwire.torch.AdamW, range(5), **options)
    theirs, reference = train(torch.optim.AdamW, range(5), **options)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert optimizer.state_dict()["state"][0].keys() == reference.state_dict()["state"][0].keys()
    train(thinwire.torch.AdamW, range(1), state=reference.state_dict(), **options)
    train(torch.optim.AdamW, range(1), state=optimizer.state_dict(), **options)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"maximize": True}])
def test_frozen_adamw_follows_the_formula(options):
    weights, optimizer = train(thinwire.torch.AdamW, range(4), **options)
    optimizer.freeze_second_moment()
    state = optimizer.state[weights[0]]
    before, m, v = (t.detach().clone() for t in (weights[0], state["exp_avg"], state["exp_avg_sq"]))
    second = state["max_exp_avg_sq"].clone() if "amsgrad" in options else v
    gradient = torch.randn(20, 10)
    for w in weights:
        w.grad = gradient.clone() if w.dim() == 2 else torch.zeros(10)
    optimizer.step()
    m = 0.9 * m + 0.1 * (-gradient if "maximize" in options else gradient)
    expected = before * (1 - 0.01 * 0.01) - 0.01 * (m / (1 - 0.9**5)) / (
        (second / (1 - 0.999**4)).sqrt() + 1e-8
    )
    torch.testing.assert_close(weights[0].detach(), expected)
    assert torch.equal(state["exp_avg_sq"], v)


def test_frozen_adamw_resumes_frozen():
    weights, optimizer = train(thinwire.torch.AdamW, range(4))
    optimizer.freeze_second_moment()
    saved = copy.deepcopy(optimizer.state_dict())
    start = [w.detach().clone() for w in weights]
    resumed, again = train(thinwire.torch.AdamW, [], parameters=start, state=saved)
    assert again.frozen
    for w, r in zip(weights, resumed, strict=True):
        w.grad = torch.ones_like(w)
        r.grad = torch.ones_like(r)
    optimizer.step()
    again.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))


def test_freezing_before_a_step_is_refused():
    with pytest.raises(RuntimeError, match="take a step"):
        train(thinwire.torch.AdamW, [])[1].freeze_second_moment()
