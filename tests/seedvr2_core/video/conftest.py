"""The clips of the video tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kits.media import RECIPES, SHARED, ffmpeg


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a clip by name: made once, or a shared one (skips where there is none)."""
    folder = tmp_path_factory.mktemp("clips")

    def get(name: str) -> Path:
        if name not in RECIPES:
            if not (SHARED / name).is_file():
                pytest.skip(f"no shared clip {SHARED / name}; set SEEDVR2_SHARED")
            return SHARED / name
        path = folder / name
        if not path.exists():
            args = [str(get(arg[1:-1])) if arg.startswith("{") else arg for arg in RECIPES[name]]
            ffmpeg(*args, path)
        return path

    return get
