"""White of R'G'B' with few bits is white with sixteen."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.planning import build_plan
from seedvr2_core.planning.outline import pixels_key
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg


@pytest.mark.parametrize(
    ("pix_fmt", "bits"),
    [
        ("bgr0", 8),
        ("gbrp9le", 9),
        ("gbrp10le", 10),
        ("gbrp12le", 12),
        ("gbrp14le", 14),
        ("gbrp16le", 16),
    ],
)
def test_every_level_keeps_its_share_of_white(tmp_path: Path, pix_fmt: str, bits: int) -> None:
    levels = np.linspace(0, 2**bits - 1, 256).astype(np.uint16)
    wanted = np.stack([levels, levels[::-1], np.full(256, levels[77])], axis=1)
    rows = np.broadcast_to(wanted, (16, 256, 3))
    raw, path = tmp_path / "a.raw", tmp_path / "a.mkv"
    if bits == 8:
        raw.write_bytes(np.dstack([rows[..., ::-1], rows[..., :1]]).astype(np.uint8).tobytes())
    else:
        raw.write_bytes(rows.transpose(2, 0, 1)[[1, 2, 0]].astype("<u2").tobytes())
    given = ["-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", "256x16", "-i", raw]
    ffmpeg(*given, "-c:v", "ffv1", "-strict", "-2", path)
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=True)
    exact = np.array([Fraction(int(one) * 65535, 2**bits - 1) for one in wanted.ravel()])
    off = np.abs(frame.rgb[3].ravel() - exact.astype(np.float64))
    assert off.max() <= 0.5
    assert frame.rgb[3, 255, 0] == 65535


def test_a_job_whose_white_was_darker_has_another_key(tmp_path: Path) -> None:
    """Its segments and masters of earlier versions do not go with those of this one."""
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48), "white").save(path)
    info = probe_video(path)
    deep, plain = (
        build_plan(info, "0" * 64, make_options(codec=codec, container="auto"))
        for codec in ("tiff", "png")
    )
    assert (deep.deep, plain.deep) == (True, False)
    grey = build_plan(probe_video(path), "0" * 64, make_options(codec="tiff", container="auto"))
    assert grey.job_key == deep.job_key
    assert pixels_key(deep, deep=True) != pixels_key(deep, deep=False)
