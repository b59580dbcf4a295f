"""Which number on a codec's own scale of quality is as good as a CRF of x264.

`python -m benchmarks.media.scales [--clips FOLDER] [--only CODEC] [--json]`

24 frames of each clip are coded by x264 at several CRFs, and by each other codec at numbers all
over its own scale, with what our jobs tell the encoders. PSNR is of the luma, against the frames
before. `as good` is the number whose PSNR is that of x264, by straight lines between those that
were tried: the median of all clips, with the lowest and the highest. `ours` is what
`seedvr2_core/video/output/scales.py` says, and `off` by how many dB it is better than x264 then,
the mean of all clips. A clip whose x264 is worse than the codec's worst counts with that end.
"""

import io
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from benchmarks.media.clips import parser_of, run_ffmpeg
from seedvr2_core.video.info import ColorInfo, EncoderSettings
from seedvr2_core.video.output.encoders import spec_of

SIZES = {
    "bunny_1280x720_25.mp4": (640, 360),
    "coffee_1280x720_2997.mp4": (640, 360),
    "flower_960x540_2997.mp4": (640, 360),
    "walkers_384x288_25.mp4": (384, 288),
    "friday_640x480_30.mp4": (640, 480),
}
FRAMES, RATE = 24, 25
CRFS = (4, 8, 12, 18, 23, 28, 34, 40, 45, 51)
_BT709 = ColorInfo(full_range=False, matrix=1, primaries=1, transfer=1)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A codec's own scale."""

    codec: str
    options: tuple[str, ...]
    """Of its encoder, that hold the number."""
    tried: tuple[int, ...]
    pix_fmt: str = "yuv420p"

    def ours(self, crf: int) -> int:
        """What our jobs take for a CRF of x264."""
        return int(spec_of(self.settings(crf)).options(self.settings(crf))[self.options[0]])

    def settings(self, crf: int, size: tuple[int, int] = (16, 16)) -> EncoderSettings:
        """Of a job."""
        return EncoderSettings(
            **{"codec": self.codec, "preset": "medium", "crf": crf, "pix_fmt": self.pix_fmt},
            **{"width": size[0], "height": size[1], "time_base": (1, RATE), "rate": (RATE, 1)},
            **{"keyint": 250, "threads": 8, "color": _BT709},
        )


X264 = Scale(codec="h264", options=("crf",), tried=CRFS)
_VP9_TRIED = (0, 4, 13, 26, 36, 45, 53, 58, 61, 63)
OTHERS = {
    "hevc": Scale(codec="hevc", options=("crf",), tried=CRFS),
    "av1": Scale(codec="av1", options=("crf",), tried=(4, 8, 12, 16, 24, 32, 40, 48, 54, 58, 63)),
    "vp9": Scale(codec="vp9", options=("crf",), tried=_VP9_TRIED),
    "vp9 with alpha": Scale(codec="vp9", options=("crf",), tried=_VP9_TRIED, pix_fmt="yuva420p"),
    "jpeg": Scale(codec="jpeg", options=("qmin", "qmax"), tried=(1, 2, 3, 4, 6, 9, 13, 19, 25, 31)),
    "webp": Scale(codec="webp", options=("quality",), tried=(0, 2, 8, 15, 30, 44, 60, 70, 82, 100)),
}


def main() -> int:
    """Measure, print."""
    options = parser_of(__doc__, only="a codec").parse_args()
    clips = {name: _frames(options.clips / name, size) for name, size in SIZES.items()}
    theirs = {name: _curve(frames, X264) for name, frames in clips.items()}
    for name, scale in OTHERS.items():
        if options.only not in name:
            continue
        curves = {clip: _curve(frames, scale) for clip, frames in clips.items()}
        for row in _rows(name, scale, theirs, curves):
            print(json.dumps(row) if options.json else _line(row), flush=True)
    return 0


def _rows(
    name: str,
    scale: Scale,
    theirs: Mapping[str, Mapping[int, float]],
    curves: Mapping[str, Mapping[int, float]],
) -> Iterator[dict[str, object]]:
    for crf in CRFS:
        found = [_number_at(curves[clip], theirs[clip][crf]) for clip in curves]
        ours = scale.ours(crf)
        off = [_psnr_at(curves[clip], ours) - theirs[clip][crf] for clip in curves]
        yield {
            "codec": name,
            "crf": crf,
            "as_good": round(statistics.median(found), 1),
            "from_to": (round(min(found), 1), round(max(found), 1)),
            "ours": ours,
            "off_db": round(statistics.fmean(off), 2),
            "x264_db": round(statistics.fmean(psnr[crf] for psnr in theirs.values()), 2),
        }


def _line(row: Mapping[str, object]) -> str:
    return (
        f"{row['codec']:15} crf {row['crf']:2}  as good {row['as_good']:5}  {row['from_to']!s:14} "
        f"ours {row['ours']:3}  off {row['off_db']:6.2f} dB  x264 {row['x264_db']} dB"
    )


def _number_at(curve: Mapping[int, float], psnr: float) -> float:
    """The number that has a PSNR; an end of the scale where none has."""
    points = sorted((value, number) for number, value in curve.items())
    values, numbers = [value for value, _ in points], [number for _, number in points]
    return float(np.interp(psnr, values, numbers))


def _psnr_at(curve: Mapping[int, float], number: int) -> float:
    return float(np.interp(number, sorted(curve), [curve[one] for one in sorted(curve)]))


def _frames(clip: Path, size: tuple[int, int]) -> np.ndarray:
    """The first frames as Y'CbCr: (T, 3 H / 2, W) uint8."""
    width, height = size
    raw = run_ffmpeg(
        *("-i", clip, "-vf", f"scale={width}:{height}:flags=bicubic,format=yuv420p", "-frames:v"),
        *(FRAMES, "-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, height * 3 // 2, width)


def _curve(frames: np.ndarray, scale: Scale) -> dict[int, float]:
    """Number on the codec's own scale -> PSNR of the luma in dB."""
    return {number: _psnr(frames, _coded(frames, scale, number)) for number in scale.tried}


def _psnr(frames: np.ndarray, coded: Sequence[np.ndarray]) -> float:
    height = frames.shape[1] * 2 // 3
    assert len(coded) == len(frames)
    luma = zip(frames[:, :height].astype(np.float64), coded, strict=True)
    error = statistics.fmean(float(np.mean((before - after) ** 2)) for before, after in luma)
    return 10 * math.log10(255**2 / max(error, 1e-4))


def _coded(frames: np.ndarray, scale: Scale, number: int) -> list[np.ndarray]:
    """The luma that a decoder finds in what was coded at a number of the codec's own scale."""
    height, width = frames.shape[1] * 2 // 3, frames.shape[2]
    settings = scale.settings(18, (width, height))
    spec = spec_of(settings)
    told = spec.options(settings) | dict.fromkeys(scale.options, str(number))
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(spec.name, RATE, options=told)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, scale.pix_fmt
        stream.codec_context.gop_size = 1 if spec.all_keys else settings.keyint
        stream.codec_context.time_base = Fraction(1, RATE)
        stream.codec_context.thread_count = settings.threads
        if spec.name == "mjpeg":
            stream.pix_fmt = "yuvj420p"
        for index, picture in enumerate(frames):
            frame = _picture(picture, stream.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue()), "r") as coded:
        pictures = [picture.to_ndarray()[:height] for picture in coded.decode(video=0)]
    return [picture.astype(np.float64) for picture in pictures]


def _picture(samples: np.ndarray, pix_fmt: str) -> VideoFrame:
    """The samples as they are, opaque where there is alpha."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(samples), format="yuv420p")
    return frame if pix_fmt in ("yuv420p", "yuvj420p") else frame.reformat(format=pix_fmt)


if __name__ == "__main__":
    sys.exit(main())
