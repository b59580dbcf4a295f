"""Frames in memory: numpy arrays or torch tensors in, the same kind out.

Shape legend: T frames, H W pixels, 3 channels in R, G, B order.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from seedvr2_core.api.options import (
    Cancellation,
    ModelOptions,
    OnProgress,
    Progress,
    check_resolution,
    ignore_progress,
)
from seedvr2_core.engines import load_engine
from seedvr2_core.engines.deterministic import deterministic
from seedvr2_core.engines.lanczos import resize_plane
from seedvr2_core.engines.protocol import Session
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Options, Piece, Plan, build_plan
from seedvr2_core.planning.cutting import shots_between
from seedvr2_core.video.alpha.colours import filled
from seedvr2_core.video.info import video_of_frames

Picture = TypeVar("Picture", np.ndarray, Tensor)
"""One frame or several, as the caller has them."""
_RGB, _RGBA = 3, 4
"""Channels."""
_WHOLE_SECONDS = 10**9
"""Longer than any clip: a clip is one segment."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How the caller's pictures are told apart: of numpy or torch, their dtype and device."""

    like: np.ndarray | Tensor

    def to_levels(self, picture: np.ndarray | Tensor) -> np.ndarray:
        """(H, W, 3 or 4) uint8 or uint16; float pictures from 0 to 1 are rounded to 16 bits."""
        array = _array_of(picture) if isinstance(picture, Tensor) else picture
        if array.dtype in (np.uint8, np.uint16):
            return array
        if not np.isfinite(array).all():
            raise InvalidRequestError("a frame has values that are not finite; expected 0.0 to 1.0")
        return np.rint(np.clip(array.astype(np.float32), 0, 1) * 65535).astype(np.uint16)

    def back(self, rgb: np.ndarray) -> np.ndarray | Tensor:
        """A restored picture in the caller's form."""
        like = self.like
        if isinstance(like, Tensor):
            return self._tensor(rgb, like)
        if like.dtype in (np.uint8, np.uint16):
            return rgb
        return (rgb.astype(np.float32) / 65535).astype(like.dtype)

    @staticmethod
    def _tensor(rgb: np.ndarray, like: Tensor) -> Tensor:
        made = torch.from_numpy(np.ascontiguousarray(rgb)).to(like.device)
        if like.dtype in (torch.uint8, torch.uint16):
            return made
        return made.to(torch.float32).div_(65535).to(like.dtype)


class Restorer:
    """A loaded model that restores clips, one after another.

    A clip is one shot: SeedVR2 carries what it has seen from frame to frame, so cut a video into
    its shots before. The model stays loaded while clips have the same number of frames and the same
    sizes; otherwise it is loaded anew for the next clip.

        with Restorer(ModelOptions(model="lanczos")) as restorer:
            larger = restorer.restore(frames, resolution="720p")

    While it works, torch is set to deterministic operators for the whole process.
    """

    def __init__(self, options: ModelOptions | None = None) -> None:
        """Use a model; it is loaded for the first clip."""
        self._options = options or ModelOptions()
        self._plan: Plan | None = None
        self._session: Session | None = None
        self._on_beat: OnProgress = ignore_progress
        self._stop = Cancellation(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the device. The restorer can be used again; it loads the model then."""
        if self._session is not None:
            self._session.close()
        self._session = self._plan = None

    def restore(
        self,
        frames: Picture,
        *,
        resolution: str = "1080p",
        on_progress: OnProgress = ignore_progress,
        cancel: threading.Event | None = None,
    ) -> Picture:
        """Restore a clip that is in memory.

        Args:
            frames: (T, H, W, 3), numpy array or torch tensor on any device, R'G'B' full range:
                uint8, uint16, or float from 0.0 to 1.0 (rounded to 16 bits on the way). A fourth
                channel is straight alpha: it is resized by Lanczos, and colours that it hides are
                replaced by those around.
            resolution: 720p, 1080p, 2k, 4k, short:720 to short:2160, a factor (2x) or a box
                (1920x1080).
            on_progress: called after each frame and slice; an error that it raises ends the work.
            cancel: set it from another thread to stop.

        Returns:
            (T, H', W', 3 or 4) of the same kind, dtype and device.

        Raises:
            InvalidRequestError: frames of another shape or dtype, or an option.
            CheckpointError: the model's weights are missing or damaged.
            ResourceError: the device's memory does not suffice; the message says what fits.
            StoppedByCallerError: `cancel` was set.
        """
        if not isinstance(frames, (np.ndarray, Tensor)):
            raise InvalidRequestError(
                f"expected frames in one numpy array or torch tensor, got {type(frames).__name__}; "
                "stack them (numpy.stack, torch.stack), or give them to Restorer.stream"
            )
        if frames.ndim != 4:
            raise InvalidRequestError(
                f"expected frames (T, H, W, 3), or (T, H, W, 4) with alpha, got "
                f"{tuple(frames.shape)}"
            )
        made = list(
            self.stream(
                iter(frames),
                num_frames=len(frames),
                resolution=resolution,
                on_progress=on_progress,
                cancel=cancel,
            )
        )
        if isinstance(frames, Tensor):
            return cast("Picture", torch.stack(cast("list[Tensor]", made)))
        return cast("Picture", np.stack(cast("list[np.ndarray]", made)))

    def stream(
        self,
        frames: Iterable[Picture],
        *,
        num_frames: int,
        resolution: str = "1080p",
        on_progress: OnProgress = ignore_progress,
        cancel: threading.Event | None = None,
    ) -> Iterator[Picture]:
        """Restore a clip frame by frame, so that it need not fit into memory.

        Args:
            frames: pictures (H, W, 3 or 4) of one kind, size and dtype, as `restore` takes them.
            num_frames: how many there are; SeedVR2 plans its windows by it.
            resolution: as for `restore`.
            on_progress: as for `restore`.
            cancel: as for `restore`.

        Yields:
            Each picture, in order, of the same kind, dtype and device. SeedVR2 reads a window or
            more before the first one comes.

        Raises:
            As `restore`; also InvalidRequestError: there are fewer frames, or one differs.
        """
        check_resolution(resolution)
        if num_frames < 1:
            raise InvalidRequestError(f"expected at least 1 frame, got {num_frames}")
        if not isinstance(frames, Iterable):
            raise InvalidRequestError(f"expected frames one by one, got {type(frames).__name__}")
        pictures = iter(frames)
        first = next(pictures, None)
        if first is None:
            raise InvalidRequestError(f"the frames ended after 0 of {num_frames}")
        form = _Form(first)
        _check_picture(first)
        self._on_beat, self._stop = on_progress, Cancellation(cancel)
        rgb = form.to_levels(first)
        info = video_of_frames(rgb.shape[1], rgb.shape[0], num_frames, bit_depth=8 * rgb.itemsize)
        plan = build_plan(info, "0" * 64, self._planned(resolution))
        with deterministic(plan.torch_threads):
            session = self._opened(plan)
            source = _Numbered(first, pictures, form, num_frames)
            for done, frame in enumerate(_restored(session, plan, iter(source)), 1):
                self._stop.check()
                on_progress(Progress(phase="restore", done=done, total=num_frames))
                yield cast("Picture", form.back(source.with_alpha(frame.rgb)))

    def _planned(self, resolution: str) -> Options:
        return replace(self._options.planned(resolution), segment_seconds=_WHOLE_SECONDS)

    def _opened(self, plan: Plan) -> Session:
        """The session for a plan: the one of the clip before, if that was planned alike."""
        if self._session is None or self._plan != plan:
            self.close()
            self._session = load_engine(plan.engine.name).open_session(
                plan, device=plan.device, beat=self._beat, weights_dir=self._options.weights_dir
            )
            self._plan = plan
        return self._session

    def _beat(self, phase: str, done: int, total: int) -> None:
        """What the engine tells while it loads and works."""
        self._stop.check()
        if phase == "load":
            self._on_beat(Progress(phase=phase, done=done, total=total))


def _restored(session: Session, plan: Plan, source: Iterator[Frame]) -> Iterator[Frame]:
    """All frames of a clip, which is one shot, made as one piece."""
    (shot,) = shots_between((), plan.video.num_frames)
    piece = Piece(shot=shot.index, start=shot.start, stop=shot.stop)
    state = session.begin(source, shot=shot, piece=piece)
    yield from session.restore(source, shot=shot, piece=piece, state=state)
    session.take_commit()


class _Numbered:
    """The caller's pictures as frames; their alpha, if they have some, goes past the engine."""

    def __init__(
        self, first: Picture, others: Iterator[Picture], form: _Form, num_frames: int
    ) -> None:
        self._first, self._others, self._form = first, others, form
        self._num_frames = num_frames
        self._alphas: deque[np.ndarray] = deque()
        """Of the frames that the engine has taken and not given back."""

    def __iter__(self) -> Iterator[Frame]:
        """The frames, in order.

        Raises:
            InvalidRequestError: one differs from the first, or they end early.
        """
        first: np.ndarray | Tensor = self._first
        picture: np.ndarray | Tensor | None = first
        like = _told(first)
        for index in range(self._num_frames):
            if picture is None:
                raise InvalidRequestError(f"the frames ended after {index} of {self._num_frames}")
            if (told := _told(picture)) != like:
                raise InvalidRequestError(
                    f"frame {index} is {told}, expected {like} like the first"
                )
            yield Frame(rgb=self._rgb(self._form.to_levels(picture)), pts=index, index=index)
            if index + 1 < self._num_frames:
                picture = next(self._others, None)

    def _rgb(self, levels: np.ndarray) -> np.ndarray:
        """What the engine gets of a picture."""
        if levels.shape[-1] == _RGB:
            return levels
        self._alphas.append(levels[:, :, _RGB])
        return filled(levels[:, :, :_RGB], self._alphas[-1])

    def with_alpha(self, rgb: np.ndarray) -> np.ndarray:
        """The next restored picture with its alpha, at its size; without, if there was none."""
        if not self._alphas:
            return rgb
        height, width, _ = rgb.shape
        return np.dstack([rgb, resize_plane(self._alphas.popleft(), height=height, width=width)])


def _check_picture(picture: np.ndarray | Tensor) -> None:
    """Refuse what is no picture of three or four channels in a dtype that is known."""
    known = ("uint8", "uint16", "float16", "float32", "float64", "bfloat16")
    fits = isinstance(picture, (np.ndarray, Tensor))
    if fits:
        kind, shape = str(picture.dtype).removeprefix("torch."), tuple(picture.shape)
        fits = len(shape) == 3 and shape[-1] in (_RGB, _RGBA) and 0 not in shape and kind in known
    if not fits:
        raise InvalidRequestError(
            f"expected frames (H, W, 3), or (H, W, 4) with alpha, in numpy arrays or torch tensors "
            f"of {', '.join(known)}, got {_told(picture)}"
        )


def _told(picture: object) -> str:
    """Shape and dtype of a picture, or what it is instead."""
    if isinstance(picture, (np.ndarray, Tensor)):
        return f"{tuple(picture.shape)} {picture.dtype}"
    return type(picture).__name__


def _array_of(picture: Tensor) -> np.ndarray:
    """A tensor's values, with bfloat16, which numpy does not have, as float32."""
    values = picture.detach().cpu()
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def upscale_frames(
    frames: Picture,
    *,
    resolution: str = "1080p",
    options: ModelOptions | None = None,
    on_progress: OnProgress = ignore_progress,
    cancel: threading.Event | None = None,
) -> Picture:
    """Restore and upscale one clip that is in memory; see `Restorer.restore`."""
    with Restorer(options) as restorer:
        return restorer.restore(
            frames, resolution=resolution, on_progress=on_progress, cancel=cancel
        )
