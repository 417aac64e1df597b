"""Builds the MPI transport against this machine's MPI: ``python -m thinwire.build_mpi``.

A wheel holds the transport's sources and not the transport, because MPIs differ in their binary
interface. It is built into ``libthinwire_mpi.so`` beside the library, where it is found from then
on; with ``--output`` elsewhere, for THINWIRE_MPI_MODULE.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
SOURCE = PACKAGE / "_mpi_source"
MODULE = "libthinwire_mpi.so"
_COMPILERS = ("mpicxx", "mpic++", "mpiCC")
_SHOWN_LINES = 12


class BuildError(Exception):
    """Says what is missing or went wrong, and the way out."""


def build(output: Path, compiler: str | None = None) -> Path:
    """Compiles and links the module into ``output``, and proves that it loads. Raises BuildError.

    ``compiler`` is an MPI's C++ compiler wrapper, by default MPICXX or the first in PATH.
    """
    wrapper = _find_compiler(compiler)
    library = next(iter(sorted(PACKAGE.glob("libthinwire.so.*"))), None)
    if library is None or not SOURCE.is_dir():
        raise BuildError(f"{PACKAGE} is no installed package of thinwire: pip install it first")
    if not os.access(output.parent, os.W_OK):
        raise BuildError(
            f"{output.parent} cannot be written: pass --output ELSEWHERE/{MODULE}, and set "
            "THINWIRE_MPI_MODULE to that path in your jobs"
        )
    work = Path(tempfile.mkdtemp(prefix="thinwire_mpi_"))
    log = work / "build.log"
    built = work / MODULE
    command = [wrapper, "-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-DOMPI_SKIP_MPICXX"]
    command += [f"-I{SOURCE / 'include'}", f"-I{SOURCE / 'src'}"]
    command += map(str, sorted(SOURCE.glob("src/mpi/*.cpp")))
    command += [str(library), "-Wl,-rpath,$ORIGIN", f"-Wl,-rpath,{PACKAGE}", "-o", str(built)]
    _run(command, log, "does not compile")
    # In a process of its own: what has been loaded stays loaded.
    check = (
        "import thinwire, sys; ok, why = thinwire._core.mpi_available(); sys.exit(not ok and why)"
    )
    _run([sys.executable, "-c", check], log, "does not load", THINWIRE_MPI_MODULE=str(built))
    # By a rename within the folder: a job that has the old one open keeps it.
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.copyfile(built, beside)
    beside.replace(output)
    shutil.rmtree(work)
    return output


def _find_compiler(compiler: str | None) -> str:
    asked = compiler or os.environ.get("MPICXX")
    for name in [asked] if asked else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildError(
        f"no {asked or 'mpicxx'} here: install an MPI with its compiler wrappers (Debian: "
        "libopenmpi-dev), load your cluster's MPI module, or pass --mpicxx PATH"
    )


def _run(command: list[str], log: Path, failure: str, **variables: str) -> None:
    with log.open("a") as file:
        print(" ".join(command), file=file, flush=True)
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **variables}
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
        raise BuildError(f"the MPI module {failure}; all of the log: {log}; its end:\n{tail}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m thinwire.build_mpi", description=__doc__)
    parser.add_argument("--mpicxx", metavar="PATH", help="compiler wrapper; default: MPICXX, PATH")
    parser.add_argument("--output", type=Path, default=PACKAGE / MODULE, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        print(f"thinwire: building the MPI transport with {_find_compiler(options.mpicxx)}")
        print(f"thinwire: {build(options.output.absolute(), options.mpicxx)} is there and loads")
    except BuildError as error:
        print(f"thinwire: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
