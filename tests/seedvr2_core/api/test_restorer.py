"""Frames in memory: each kind of picture comes back as it was given; the model stays loaded."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from seedvr2_core import ModelOptions, Progress, Restorer, SeedVR2Error, upscale_frames
from seedvr2_core.api import restorer as module
from seedvr2_core.engines.lanczos import resize_plane, resize_rgb
from seedvr2_core.errors import InvalidRequestError, StoppedByCallerError
from seedvr2_core.planning import sizes

LANCZOS = ModelOptions(model="lanczos", device="cpu")
TINY = ModelOptions(model="tiny", device="cpu", batch_size=9)
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": 64 * 36})


def clip(num_frames: int = 3, *, height: int = 18, width: int = 32) -> np.ndarray:
    """Noise: (T, H, W, 3) uint8."""
    return RNG.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def test_each_frame_is_what_the_engine_makes_of_it() -> None:
    frames = clip()
    made = upscale_frames(frames, resolution="720p", options=LANCZOS)
    assert made.shape == (3, 36, 64, 3)
    for frame, restored in zip(frames, made, strict=True):
        np.testing.assert_array_equal(restored, resize_rgb(frame, height=36, width=64))


@pytest.mark.parametrize("options", [LANCZOS, TINY], ids=["lanczos", "tiny"])
@pytest.mark.parametrize("white", [255, 65535, 1.0], ids=["uint8", "uint16", "float32"])
def test_alpha_goes_past_the_engine(options: ModelOptions, white: float) -> None:
    """Each frame's own alpha by Lanczos, and colours as without what is hidden."""
    kind = {255: np.uint8, 65535: np.uint16, 1.0: np.float32}[white]
    frames = np.dstack([clip(9).reshape(9 * 18, 32, 3), np.zeros((9 * 18, 32), np.uint8)])
    frames = frames.reshape(9, 18, 32, 4)
    for index, frame in enumerate(frames):
        frame[:, : index + 3, 3] = 20 * index + 60
        frame[:, 20:, 3] = 255
    given = (frames / 255 * white).round(0 if white > 1 else 9).astype(kind)
    made = upscale_frames(given, resolution="720p", options=options)
    assert (made.shape, made.dtype) == ((9, 36, 64, 4), kind)
    for frame, restored in zip(frames, made, strict=True):
        wanted = resize_plane(frame[..., 3], height=36, width=64)
        assert np.abs(restored[..., 3] / white * 255 - wanted).max() <= 1.01
    other = given.copy()
    other[given[..., 3] == 0] = 0
    again = upscale_frames(other, resolution="720p", options=options)
    np.testing.assert_array_equal(again, made)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_tensors_come_back_as_tensors_of_their_dtype(dtype: torch.dtype) -> None:
    frames = torch.from_numpy(clip())
    if dtype is torch.uint16:
        frames = frames.to(torch.uint16) * 257
    elif dtype.is_floating_point:
        frames = (frames.float() / 255).to(dtype)
    made = upscale_frames(frames, resolution="720p", options=LANCZOS)
    assert isinstance(made, torch.Tensor)
    assert (made.dtype, made.shape) == (dtype, (3, 36, 64, 3))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_arrays_come_back_as_arrays_of_their_dtype_with_the_same_picture(dtype: Any) -> None:
    frames = clip()
    plain = upscale_frames(frames, resolution="720p", options=LANCZOS) / 255
    white = 65535 if dtype is np.uint16 else 1
    made = upscale_frames((frames / 255 * white).astype(dtype), resolution="720p", options=LANCZOS)
    assert made.dtype == dtype
    # The 8-bit filter of torch clamps between the two axes, so single pixels of noise differ more.
    assert np.abs(made / white - plain).mean() < 1 / 255


def test_numpy_and_torch_give_the_same_values() -> None:
    frames = clip(6)
    of_numpy = upscale_frames(frames, resolution="720p", options=TINY)
    of_torch = upscale_frames(torch.from_numpy(frames), resolution="720p", options=TINY)
    np.testing.assert_array_equal(of_torch.numpy(), of_numpy)


def test_the_model_stays_loaded_for_clips_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = module.load_engine
    monkeypatch.setattr(module, "load_engine", lambda name: loaded.append(name) or load(name))
    first, second = clip(6), clip(6)
    with Restorer(TINY) as restorer:
        one = restorer.restore(first, resolution="720p")
        two = restorer.restore(second, resolution="720p")
        again = restorer.restore(first, resolution="720p")
        assert loaded == ["tiny"]
        restorer.restore(clip(2), resolution="720p")
        assert loaded == ["tiny", "tiny"]
    np.testing.assert_array_equal(again, one)
    np.testing.assert_array_equal(two, upscale_frames(second, resolution="720p", options=TINY))


def test_the_seed_decides() -> None:
    frames = clip(6)
    other = ModelOptions(model="tiny", device="cpu", batch_size=9, seed=7)
    one = upscale_frames(frames, resolution="720p", options=TINY)
    assert (upscale_frames(frames, resolution="720p", options=other) != one).any()


def test_frames_of_a_stream_are_read_when_they_are_needed() -> None:
    taken: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate(clip(5)):
            taken.append(index)
            yield frame

    told: list[Progress] = []
    with Restorer(LANCZOS) as restorer:
        stream = restorer.stream(frames(), num_frames=5, resolution="720p", on_progress=told.append)
        next(stream)
        assert len(taken) <= 2
        assert len(list(stream)) == 4
    assert [progress.done for progress in told if progress.phase == "restore"] == [1, 2, 3, 4, 5]


def test_a_stop_ends_the_work_and_the_restorer_goes_on() -> None:
    cancel = threading.Event()
    frames = clip(6)

    def stop_at_the_second(progress: Progress) -> None:
        if progress.done == 2:
            cancel.set()

    with Restorer(TINY) as restorer:
        with pytest.raises(StoppedByCallerError):
            restorer.restore(
                frames, resolution="720p", on_progress=stop_at_the_second, cancel=cancel
            )
        made = restorer.restore(frames, resolution="720p")
    np.testing.assert_array_equal(made, upscale_frames(frames, resolution="720p", options=TINY))


def test_torch_is_left_as_it_was() -> None:
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
    )
    upscale_frames(clip(2), resolution="720p", options=TINY)
    with pytest.raises(InvalidRequestError), Restorer(LANCZOS) as restorer:
        list(restorer.stream(iter(clip(2)), num_frames=3, resolution="720p"))
    after = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
    )
    assert after == before


def differing() -> list[np.ndarray]:
    """A second frame of another size."""
    return [*clip(1), *clip(1, width=30)]


@pytest.mark.parametrize(
    ("frames", "count", "sentence"),
    [
        ([], 1, "ended after 0 of 1"),
        (list(clip(2)), 3, "ended after 2 of 3"),
        (list(clip(2)), 0, "at least 1 frame"),
        (differing(), 2, r"frame 1 is \(18, 30, 3\) uint8, expected \(18, 32, 3\) uint8"),
        ([np.zeros((18, 32), np.uint8)], 1, r"expected frames \(H, W, 3\)"),
        ([np.zeros((18, 32, 2), np.uint8)], 1, r"got \(18, 32, 2\) uint8"),
        ([np.zeros((18, 32, 3), np.int64)], 1, "int64"),
        ([np.full((18, 32, 3), np.nan, np.float32)], 1, "not finite"),
    ],
)
def test_wrong_frames_are_named(frames: list[np.ndarray], count: int, sentence: str) -> None:
    with (
        Restorer(LANCZOS) as restorer,
        pytest.raises(InvalidRequestError, match=sentence),
    ):
        list(restorer.stream(frames, num_frames=count, resolution="720p"))


@pytest.mark.parametrize("given", [[clip(1)[0]], iter(clip(1)), "clip.mp4", None])
def test_what_is_no_array_is_refused_with_what_to_do(given: Any) -> None:
    kind = type(given).__name__
    with pytest.raises(InvalidRequestError, match=rf"one numpy array or torch tensor, got {kind};"):
        upscale_frames(given, resolution="720p", options=LANCZOS)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([[[1, 2, 3]]], "in numpy arrays or torch tensors of .*, got list"),
        ("ab", "in numpy arrays or torch tensors of .*, got str"),
        ([clip(1)[0], "b"], r"frame 1 is str, expected \(\d+, \d+, 3\) uint8 like the first"),
        (
            [clip(1)[0], torch.from_numpy(clip(1)[0])],
            "frame 1 is .* torch.uint8, expected .* uint8",
        ),
        (5, "expected frames one by one, got int"),
    ],
)
def test_a_stream_of_something_else_is_refused(given: Any, sentence: str) -> None:
    with Restorer(LANCZOS) as restorer, pytest.raises(InvalidRequestError, match=sentence):
        list(restorer.stream(given, num_frames=2, resolution="720p"))


@pytest.mark.parametrize(
    ("options", "resolution", "sentence"),
    [
        ({"model": "seedvr3"}, "720p", "unknown model 'seedvr3'"),
        ({"model": "seedvr2-7b", "device": "cpu"}, "720p", "needs an NVIDIA GPU"),
        ({"model": "lanczos", "device": "cuda:0"}, "720p", "finds no GPU"),
        ({"model": "lanczos", "device": "tpu"}, "720p", "no device of torch"),
        ({"model": "lanczos"}, "720", "did you mean 720p"),
        ({"model": "lanczos"}, 720, "expected a word such as '720p', got 720"),
        ({"seed": -1}, "720p", "seed"),
        ({"batch_size": 0}, "720p", "batch_size"),
        ({"stitch_mode": "mix"}, "720p", "stitch_mode is one of crossfade, later"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], resolution: Any, sentence: str) -> None:
    if options.get("device") == "cuda:0" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SeedVR2Error, match=sentence):
        upscale_frames(clip(1), resolution=resolution, options=ModelOptions(**options))
