"""What an ffmpeg process says about a file: its pictures at full depth, tags, sound, side data."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from tests.kits.media import ffmpeg

HDR10 = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
"""A mastering display as x265 writes it: the primaries of Display P3, 0.005 to 1000 cd/m2."""
MAX_CLL = "1000,400"


def described(path: Path) -> str:
    """What ffmpeg prints about a file that it opens."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def video_line(path: Path) -> str:
    """The line about the video: "hevc (Main 10) (hvc1 ...), yuv420p10le(tv, ...), 320x180 ..."."""
    found = re.search(r"Stream #0:\d+.*?: Video: (.*)", described(path))
    assert found is not None
    return found[1]


def hdr_lines(path: Path) -> list[str]:
    """What the first picture's side data says about HDR, as ffmpeg's showinfo prints it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path)]
    done = subprocess.run(
        [*command, "-map", "0:v:0", "-frames:v", "1", "-vf", "showinfo", "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition("] ")[2].strip() for line in done.stderr.splitlines()]
    kinds = ("Mastering display", "Content light level")
    return sorted({line for line in lines if any(kind in line for kind in kinds)})


def planes(path: Path, pix_fmt: str, *filters: str, frames: int = 100) -> list[np.ndarray]:
    """The Y, U and V planes of the first frames, (T, pixels), 4:4:4 and 4:2:0 alike.

    Args:
        path: the file.
        pix_fmt: FFmpeg's name of planar Y'CbCr.
        filters: what happens to the frames before.
        frames: how many at most.
    """
    chain = ",".join([*filters, f"format={pix_fmt}"])
    raw = ffmpeg(
        *["-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-frames:v", str(frames)],
        *["-vf", chain, "-f", "rawvideo", "-"],
    )
    width, height = map(int, re.findall(r", (\d+)x(\d+)", video_line(path))[0])
    samples = np.frombuffer(raw, np.uint8 if pix_fmt.endswith("p") else np.uint16)
    luma = width * height
    chroma = luma if "444" in pix_fmt else luma // 2 if "422" in pix_fmt else luma // 4
    whole = samples.reshape(-1, luma + 2 * chroma).astype(np.int64)
    return np.split(whole, (luma, luma + chroma), axis=1)


def frame_digests(path: Path) -> list[str]:
    """A digest of each decoded frame."""
    text = ffmpeg(
        *["-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    ).decode()
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


def packet_digests(path: Path, stream: str) -> list[str]:
    """A digest of each packet of a stream ("a:0", "s:1"), as it is in the file."""
    text = ffmpeg("-i", path, "-map", f"0:{stream}", "-c", "copy", "-f", "framemd5", "-").decode()
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]
