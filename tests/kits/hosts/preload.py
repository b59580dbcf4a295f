"""Libraries between our processes and the C library, which change what single calls answer."""

import shutil
import subprocess
from pathlib import Path


def build_library(source: Path, folder: Path) -> Path:
    """Compile a library for LD_PRELOAD; returns its path."""
    compiler = shutil.which("cc")
    assert compiler, "no C compiler: apt-get install gcc libc6-dev"
    path = folder / f"{source.stem}.so"
    options = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *options, "-o", path, source, "-ldl"], check=True)
    return path
