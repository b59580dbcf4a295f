"""Which environment variables a child process gets: a list of what it may have, and no more.

The child decodes videos of strangers. Whoever takes it over must find no key in it, also none that
a later version, Prefect or the operator puts into the environment. So names are allowed one by one:
places, language, and what CUDA, torch, numpy and the allocator read. No setting of ours is among
them, because requests say everything, and no proxy, because the child opens no connection.
"""

import re
from collections.abc import Mapping

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TEMP|TMP|TZ|TZDIR|LANG|LANGUAGE|LC_\w+"
    r"|LD_\w+|PYTHON\w*|VIRTUAL_ENV|GLIBC_TUNABLES|XDG_\w+"
    r"|(CUDA|CUDNN|CUBLAS|NVIDIA|TORCH\w*|PYTORCH|TRITON)_\w+"
    r"|(OMP|GOMP|KMP|MKL|OPENBLAS|MALLOC)_\w+"
    r"|SEEDVR2_TEST_\w+"
)
ALLOCATOR = "expandable_segments:True,pinned_max_cached_size_mb:128"
"""Settings of torch's allocators: little is lost to fragments, and large page-locked blocks have
their exact size and are given back (engines/seedvr2/parking.py)."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL")
"""Left out even where the rest of the name is allowed: TORCH_HUB_TOKEN."""


def for_children(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that decodes strangers' videos or runs a model.

    One malloc arena, because threads come and go with every segment and each would leave an arena
    behind. Pictures lie in it too: pages of their own would be cleared by the kernel for every
    picture, 6 ms of CPU per 720p frame; free memory is returned after every segment. The others
    save memory of the GPU, let large page-locked blocks be as large as they are asked for, and let
    cuBLAS add in one fixed order, so that results are reproducible.

    Python imports nothing from the folder that it is started in.

    Args:
        given: our own environment. What it says about these variables holds.
    """
    kept = {
        name: value
        for name, value in given.items()
        if _ALLOWED.fullmatch(name) and not _SECRET.search(name)
    }
    return {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # glibc's maximum; a 4k picture fits
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        "PYTORCH_ALLOC_CONF": ALLOCATOR,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "SVT_LOG": "1",  # errors alone; it would tell each segment's settings
        **kept,
        "PYTHONSAFEPATH": "1",
    }
