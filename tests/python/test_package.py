"""What needs no ranks."""

import builtins
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


def test_stubs_say_what_the_module_has(tmp_path):
    allowed = Path(__file__).parent / "stubtest_allowed.txt"
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nfollow_imports = skip\n")  # torch's types take 20 s to read
    command = [sys.executable, "-m", "mypy.stubtest", "thinwire._core", "--allowlist", allowed]
    command += ["--ignore-unused-allowlist", "--mypy-config-file", config]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


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
    matrix, vector = torch.zeros(3, 3), torch.zeros(3)
    rules = CodecRules("int4", {"*.embed*": "bf16", "*": "sign"})
    assert rules.codec_of("net.embed.weight", matrix) == "bf16"
    assert rules.codec_of("net.bias", vector) == "sign"
    rules = CodecRules("int4")
    assert rules.codec_of("net.bias", vector) == "none"
    assert rules.codec_of("net.weight", matrix) == "int4"
    assert rules.with_codec("sign").codec_of("net.weight", matrix) == "sign"
    with pytest.raises(ValueError, match="int5"):
        CodecRules("int5")
