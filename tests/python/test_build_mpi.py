"""python -m thinwire.build_mpi, with this machine's MPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from thinwire import build_mpi

ROOT = Path(__file__).parents[2]
needs_mpi = pytest.mark.skipif(
    not (shutil.which("mpicxx") and shutil.which("mpirun")), reason="no mpicxx and mpirun here"
)


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "thinwire.build_mpi", *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_mpi
def test_the_module_is_built_and_two_ranks_exchange_over_it(tmp_path):
    module = tmp_path / build_mpi.MODULE
    done = run("--output", module)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{module} is there and loads" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [build_mpi.MODULE]
    program = (
        "import thinwire, torch\n"
        "ranks = thinwire.init(transport='mpi')\n"
        "tensor = torch.full((1000,), float(ranks.rank))\n"
        "ranks.allreduce(tensor, codec='bf16')\n"
        "assert (tensor == 0.5).all()\n"
        f"assert {str(module)!r} in open('/proc/self/maps').read()\n"
        "import sys; sys.stdout.write(f'rank {ranks.rank} over {ranks.transport}\\n')\n"
    )
    ranks = subprocess.run(
        [ROOT / "launch/mpirun", "-np", "2", "--", sys.executable, "-c", program],
        env={**os.environ, "THINWIRE_MPI_MODULE": str(module)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ranks.returncode == 0, ranks.stdout + ranks.stderr
    assert "rank 0 over mpi" in ranks.stdout
    assert "rank 1 over mpi" in ranks.stdout


def test_without_a_compiler_it_says_what_to_install():
    done = run(PATH="/nonexistent", MPICXX="")
    assert done.returncode == 1
    assert "no mpicxx here: install an MPI" in done.stderr
    done = run("--mpicxx", "/opt/mpi/bin/mpicxx")
    assert done.returncode == 1
    assert "no /opt/mpi/bin/mpicxx here" in done.stderr


def test_an_error_of_the_compiler_is_shown_and_its_log_kept(tmp_path):
    compiler = tmp_path / "mpicxx"
    compiler.write_text("#!/bin/sh\necho 'mpi.h: no such file'; exit 1\n")
    compiler.chmod(0o755)
    module = tmp_path / build_mpi.MODULE
    done = run("--output", module, MPICXX=str(compiler), TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "does not compile" in done.stderr
    assert "mpi.h: no such file" in done.stderr
    (log,) = tmp_path.glob("*/build.log")
    assert str(log) in done.stderr
    assert not module.exists()


def test_what_does_not_load_is_not_installed(tmp_path):
    compiler = tmp_path / "mpicxx"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho no library > "$last"\n')
    compiler.chmod(0o755)
    module = tmp_path / build_mpi.MODULE
    module.write_text("the old one")
    done = run("--output", module, "--mpicxx", compiler, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "does not load" in done.stderr
    assert module.read_text() == "the old one"
