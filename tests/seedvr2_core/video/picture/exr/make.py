"""Made the pictures in this folder: `python make.py`, with the package OpenEXR (3.5.3).

Our environment has no program that writes these compressions, so what it wrote is kept, together
with what it reads of them: some of them lose a little.
"""

from pathlib import Path

import numpy as np
import OpenEXR

NAMES = ("piz", "pxr24", "b44", "b44a", "dwaa", "dwab")


def main() -> None:
    """Write a picture for each compression, and one file with the samples of all."""
    folder = Path(__file__).parent
    down, across = np.mgrid[0:40, 0:48].astype(np.float32)
    ramps = (across / 52, down / 44, (across + down) / 98)
    wave = 0.05 * np.sin(across * down / 60)
    half = np.dstack([0.02 + 0.9 * ramp + wave for ramp in ramps]).clip(0, 1).astype(np.float16)
    read: dict[str, np.ndarray] = {}
    for name in NAMES:
        kind = getattr(OpenEXR, f"{name.upper()}_COMPRESSION")
        header = {"compression": kind, "type": OpenEXR.scanlineimage}
        path = str(folder / f"{name}.exr")
        OpenEXR.File(header, {"RGB": half}).write(path)
        with OpenEXR.File(path) as file:
            read[name] = file.channels()["RGB"].pixels.astype(np.float16)
    np.savez_compressed(folder / "samples.npz", **read)
    make_what_libav_cannot_read(folder)


def make_what_libav_cannot_read(folder: Path) -> None:
    """Noise of odd sides, of which it makes black, and alpha of floats, of which it makes noise."""
    draw = np.random.default_rng(5)
    header = {"compression": OpenEXR.DWAA_COMPRESSION, "type": OpenEXR.scanlineimage}
    odd = draw.random((35, 27, 3), np.float32).astype(np.float16)
    OpenEXR.File({**header}, {"RGB": odd}).write(str(folder / "odd-dwaa.exr"))
    floats = draw.random((16, 24, 4), np.float32)
    OpenEXR.File({**header}, {"RGBA": floats}).write(str(folder / "alpha-dwaa.exr"))


if __name__ == "__main__":
    main()
