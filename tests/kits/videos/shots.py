"""A film of shots that have nothing in common, for tests of what is done at cuts."""

from pathlib import Path

from tests.kits.media import ffmpeg

RATE = 25
_PICTURES = ("smptehdbars", "testsrc2", "mandelbrot", "testsrc", "rgbtestsrc", "pal100bars")


def film_of_shots(path: Path, lengths: list[int]) -> None:
    """Write a film of 64x36 pixels at 25 frames a second.

    Args:
        path: its file.
        lengths: frames of each shot; neighbours show different pictures.
    """
    sources = [_PICTURES[k % len(_PICTURES)] for k in range(len(lengths))]
    inputs = [
        word for name in sources for word in ("-f", "lavfi", "-i", f"{name}=s=64x36:r={RATE}")
    ]
    parts = [
        f"[{k}:v]trim=end_frame={length},setpts=N,format=yuv420p,setsar=1[p{k}]"
        for k, length in enumerate(lengths)
    ]
    names = "".join(f"[p{k}]" for k in range(len(lengths)))
    graph = ";".join([*parts, f"{names}concat=n={len(lengths)}"])
    ffmpeg(*inputs, "-filter_complex", graph, "-r", str(RATE), "-c:v", "libx264", path)
