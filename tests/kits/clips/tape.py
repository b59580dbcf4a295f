"""Home video as it comes from a tape: made of a clip by ffmpeg's filters.

What VHS does to a picture: half of a camera's lines at a time, little detail along a line and much
less in colour, colour that lies beside its place, noise, lines that shake, and at the bottom those
where the heads change.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.kits.media import ffmpeg

_SWITCHED_LINES = 8


@dataclass(frozen=True, kw_only=True)
class System:
    """A television system, as DV keeps it."""

    size: tuple[int, int]
    sar: str
    fields: str
    """A second."""
    pix_fmt: str
    matrix: str


PAL = System(size=(720, 576), sar="16/15", fields="50", pix_fmt="yuv420p", matrix="bt470bg")
NTSC = System(
    size=(720, 480), sar="8/9", fields="60000/1001", pix_fmt="yuv411p", matrix="smpte170m"
)


def vhs(clip: Path, path: Path, system: System, *, seconds: float) -> Path:
    """A DV file, bottom field first, of a clip that was once on VHS, with a tone.

    Args:
        clip: whose frames become fields, so that everything moves between two fields.
        path: where, an .avi.
        system: how many lines and fields.
        seconds: how long.
    """
    width, height = system.size
    bottom = height - _SWITCHED_LINES
    graph = (
        f"[0:v]setpts=N/({system.fields})/TB,fps={system.fields},scale={width}:{height},"
        f"format=yuv444p,gblur=sigma=1.3:sigmaV=0.01:planes=1,"
        "gblur=sigma=6:sigmaV=0.8:planes=6,chromashift=cbh=3:crh=5,"
        "noise=c0s=9:c0f=t+u:c1s=14:c1f=t+u:c2s=14:c2f=t+u,split[whole][again];"
        f"[again]crop={width}:{_SWITCHED_LINES}:0:{bottom},scroll=hpos=0.06:h=0.003[switched];"
        f"[whole][switched]overlay=0:{bottom},"
        f"tinterlace=interleave_bottom,setfield=bff,setsar={system.sar},format={system.pix_fmt}"
    )
    ffmpeg(
        *["-stream_loop", "-1", "-i", clip, "-f", "lavfi", "-i", "sine=f=440:r=48000"],
        *["-filter_complex", graph, "-map", "1:a", "-t", str(seconds), "-c:v", "dvvideo"],
        *["-flags", "+ilme+ildct", "-c:a", "pcm_s16le", "-ac", "2", path],
    )
    return path
