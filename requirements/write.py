"""Writes the lock files beside it from pyproject.toml: `make lock`.

Each file names exact versions and the sha256 of every file that may be installed for them. `make`
installs from these files alone, so a package that was replaced on its way is refused.

- base.lock: what runs the product, but for torch and what only torch needs
- dev.lock: what its tests and checks need besides
- cpu.lock: torch's build for the CPU, and Triton, whose interpreter the tests of our kernels use.
  PyPI does not have the former; `make` takes this file where pip is set up with a place that has
  it, and cuda.lock everywhere else
- cuda.lock: torch as PyPI has it, with NVIDIA's libraries and Triton on Linux
- sbom.lock: the tool of `make sbom`, for an environment of its own (sbom.in)
- docs.lock: the tool of `make site`, the same (docs.in)
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# Digests of torch-<version>+cpu for CPython 3.11 on Linux x86-64. uv sees only what PyPI has.
CPU_BUILDS = {"2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}
CUDA_PACKAGES = re.compile(r"torch$|nvidia-|cuda-|triton$")
HEADER = "# Written by `make lock` from pyproject.toml. Do not edit.\n"


def resolve(*extras: str, constraints: Path | None = None) -> str:
    """Resolve the project for all platforms and Pythons that it supports.

    Args:
        extras: which of its extras to include.
        constraints: a lock whose versions are to be kept.

    Returns:
        Requirements with their hashes, as pip reads them.

    Raises:
        CalledProcessError: uv found no set of versions that fits; it has printed why.
    """
    options = [option for extra in extras for option in ("--extra", extra)]
    if constraints:
        options += ["--constraints", str(constraints)]
    options += ["--overrides", str(HERE / "override.in")]
    return compile_files(HERE.parent / "pyproject.toml", HERE / "build.in", options=options)


def compile_files(*sources: Path, options: Sequence[str] = ()) -> str:
    """Resolve what files ask for; as `resolve`, which adds options of uv."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as out:
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
                *("--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"),
                *("--output-file", out.name, *options, *map(str, sources)),
            ],
            check=True,
        )
        return Path(out.name).read_text()


def name_and_version(entry: str) -> tuple[str, str]:
    """The package and the version that an entry of a lock names.

    Raises:
        ValueError: the entry pins no version.
    """
    found = re.match(r"([a-z0-9-]+)==(\S+)", entry)
    if found is None:
        raise ValueError(f"an entry like name==version was expected, got {entry[:60]!r}")
    return found[1], found[2]


def entries_of(lock: str) -> list[str]:
    """The entries of a lock: a requirement each, with its hashes."""
    return re.split(r"^(?=\S)", lock, flags=re.MULTILINE)[1:]


def split(everything: str, runtime: str) -> dict[str, str]:
    """Sort the entries of a whole lock into the lock files.

    Args:
        everything: the lock with all extras.
        runtime: the lock of what runs the product; what it lacks is for developers.

    Returns:
        Each file's text by its name.
    """
    needed = {name_and_version(entry)[0] for entry in entries_of(runtime)}
    files = dict.fromkeys(("base.lock", "dev.lock", "cpu.lock", "cuda.lock"), HEADER)
    for entry in entries_of(everything):
        name, version = name_and_version(entry)
        if CUDA_PACKAGES.match(name):
            files["cuda.lock"] += entry
        else:
            files["base.lock" if name in needed else "dev.lock"] += entry
        if name == "triton":
            files["cpu.lock"] += entry
        if name == "torch":
            digest = CPU_BUILDS[version]
            files["cpu.lock"] += f"torch=={version}+cpu \\\n    --hash=sha256:{digest}\n"
    return files


def main() -> None:
    """Write the lock files."""
    everything = resolve("dev", "gpu")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write(everything)
        kept.flush()
        runtime = resolve("gpu", constraints=Path(kept.name))
    for name, text in split(everything, runtime).items():
        (HERE / name).write_text(text)
    for tool in ("sbom", "docs"):
        (HERE / f"{tool}.lock").write_text(HEADER + compile_files(HERE / f"{tool}.in"))


if __name__ == "__main__":
    main()
