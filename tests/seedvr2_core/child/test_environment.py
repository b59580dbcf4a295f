"""What a child process finds in its environment: what it needs, and no key."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.child.environment import for_children
from seedvr2_core.child.protocol import Ready
from tasks.child import Child
from tasks.settings import Settings

NEEDED = (
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"),
    *("TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_ALLOC_CONF", "TRITON_CACHE_DIR"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX", "XDG_CACHE_HOME"),
)
SECRET = (
    *("BUNNY_STORAGE_KEY", "SEEDVR2_BUNNY_STORAGE_KEY", "SEEDVR2_BUNNY_TOKEN_KEY"),
    *("SEEDVR2_EDGE_KEY", "SEEDVR2_GATEWAY_TOKEN", "SEEDVR2_CALLBACK_SECRET"),
    *("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_API_URL", "HF_TOKEN"),
    *("SEEDVR2_SECRETS_DIR", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "HTTPS_PROXY"),
    *("TORCH_HUB_TOKEN", "XDG_SESSION_AUTH", "A_NAME_THAT_NOBODY_THOUGHT_OF"),
)


def test_what_is_needed_goes_on_and_nothing_else() -> None:
    given = for_children(dict.fromkeys((*NEEDED, *SECRET), "canary"))
    assert {name for name, value in given.items() if value == "canary"} == set(NEEDED)
    assert for_children({})["MALLOC_ARENA_MAX"] == "1"


def test_a_real_child_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, settings_with: Callable[..., Settings]
) -> None:
    settings_with()  # those of the environment would not be valid now
    for name in SECRET:
        monkeypatch.setenv(name, "canary-0123456789")
    say = "from seedvr2_core.child.protocol import Ready; import sys, time\n"
    say += "from seedvr2_core.child.progress import Emitter\n"
    say += "Emitter(sys.stdout).emit(Ready(engine='x', device='y')); time.sleep(60)"
    child = Child(command=[sys.executable, "-u", "-c", say])
    try:
        event = child.next_event(stall_seconds=30, doing="starting")
        assert event == Ready(engine="x", device="y")
        found = Path(f"/proc/{child.pid}/environ").read_bytes()
    finally:
        child.close()
    assert b"canary" not in found
    assert os.environ["PATH"].encode() in found
