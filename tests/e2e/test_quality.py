"""The small engines are worth their time: each beats a plain resize on what it is for."""

import dataclasses
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.engines.table import load_engine
from seedvr2_core.frames import Frame
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Piece, Shot
from tests.kits.factories import make_info, make_options

pytestmark = pytest.mark.slow

RunFfmpeg = Callable[..., subprocess.CompletedProcess[bytes]]

WIDTH, HEIGHT = 320, 180
EVERY = 10
"""One frame in ten of 75: eight frames."""


def decode(ffmpeg: RunFfmpeg, clip: Path, *, width: int, height: int) -> np.ndarray:
    """Every tenth frame, shrunk bicubically: (T, height, width, 3) uint8."""
    to_rgb = f"scale={WIDTH}:{HEIGHT}:flags=bicubic+full_chroma_int+accurate_rnd,format=rgb24"
    shrunk = f"scale={width}:{height}:flags=bicubic+accurate_rnd"
    chain = rf"select=not(mod(n\,{EVERY})),{to_rgb},{shrunk}"
    raw = ffmpeg("-i", clip, "-fps_mode", "passthrough", "-vf", chain, "-f", "rawvideo", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def restore(engine: str, small: np.ndarray) -> np.ndarray:
    """(T, h, w, 3) -> (T, HEIGHT, WIDTH, 3), through the engine's own session."""
    count, height, width, _ = small.shape
    info = make_info(width, height, pts=tuple(range(count)))
    options = make_options()
    settings = dataclasses.replace(options.engine, name=engine)
    plan = build_plan(info, "0" * 64, dataclasses.replace(options, engine=settings))
    plan = dataclasses.replace(plan, width=WIDTH, height=HEIGHT)
    session = load_engine(engine).open_session(plan, device="cpu", beat=lambda *_: None)
    shot, piece = Shot(index=0, start=0, stop=count), Piece(shot=0, start=0, stop=count)
    frames = (Frame(rgb=rgb, pts=index, index=index) for index, rgb in enumerate(small))
    state = session.begin(frames, shot=shot, piece=piece)
    restored = session.restore(frames, shot=shot, piece=piece, state=state)
    pictures = np.stack([frame.rgb for frame in restored])
    session.close()
    return pictures


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Over all frames and R'G'B' samples, in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 10 * math.log10(255**2 / float(error))


@pytest.mark.parametrize(("factor", "least_gain"), [(2, 0.5), (4, 0.3)], ids=["x2", "x4"])
def test_span_beats_lanczos(
    ffmpeg: RunFfmpeg, demo_clip: Path, factor: int, least_gain: float
) -> None:
    original = decode(ffmpeg, demo_clip, width=WIDTH, height=HEIGHT)
    small = decode(ffmpeg, demo_clip, width=WIDTH // factor, height=HEIGHT // factor)
    assert len(original) == len(small) == 8
    span = psnr(restore("span", small), original)
    lanczos = psnr(restore("lanczos", small), original)
    print(f"x{factor}: span {span:.2f} dB, lanczos {lanczos:.2f} dB")
    assert span > lanczos + least_gain


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "least_gain"),
    [("flower_960x540_2997.mp4", 0.2), ("coffee_1280x720_2997.mp4", 0.2)],
    ids=["flower", "coffee"],
)
def test_waifu2x_beats_lanczos_and_span_on_a_coded_clip(
    ffmpeg: RunFfmpeg, shared: Path, tmp_path: Path, name: str, least_gain: float
) -> None:
    """Noise and x264 at crf 32, then twice the size: what the engine is there for."""
    clip, coded = shared / "clips" / name, tmp_path / "coded.mkv"
    to_size = f"scale={WIDTH}:{HEIGHT}:flags=bicubic+accurate_rnd+full_chroma_int"
    halved = f"scale={WIDTH // 2}:{HEIGHT // 2}:flags=bicubic+accurate_rnd+full_chroma_int"
    ffmpeg(
        *("-i", clip, "-vf", f"{to_size},{halved},noise=alls=8:allf=t,format=yuv420p", "-an"),
        *("-c:v", "libx264", "-crf", "32", "-frames:v", "75", coded),
    )
    original = decode(ffmpeg, clip, width=WIDTH, height=HEIGHT)[:8]
    small = decode_coded(ffmpeg, coded)
    assert len(original) == len(small) == 8
    gain = {
        engine: psnr(restore(engine, small), original) for engine in ("lanczos", "span", "waifu2x")
    }
    print(f"{name}: " + ", ".join(f"{engine} {value:.2f} dB" for engine, value in gain.items()))
    assert gain["waifu2x"] > gain["lanczos"] + least_gain > gain["span"]


def decode_coded(ffmpeg: RunFfmpeg, clip: Path) -> np.ndarray:
    """Every tenth frame of a clip that has half the size: (T, h, w, 3) uint8."""
    chain = rf"select=not(mod(n\,{EVERY})),format=rgb24"
    raw = ffmpeg("-i", clip, "-fps_mode", "passthrough", "-vf", chain, "-f", "rawvideo", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT // 2, WIDTH // 2, 3)
