"""Clips with alpha of a known kind, in every codec that has it, and what ffmpeg sees in them."""

from pathlib import Path

import numpy as np

from tests.kits.media import ffmpeg

WIDTH, HEIGHT, FRAMES, RATE = 96, 54, 12, 25
RED = (220, 40, 30)

_FFV1 = ["-c:v", "ffv1", "-pix_fmt"]
KINDS: dict[str, list[str]] = {
    "prores.mov": [*["-c:v", "prores_ks", "-profile:v", "4444"], *["-pix_fmt", "yuva444p10le"]],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-crf", "4", "-b:v", "0"],
    "vp8.webm": ["-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-b:v", "2M"],
    "bgra.mkv": [*_FFV1, "bgra"],
    "yuva420p.mkv": [*_FFV1, "yuva420p"],
    "yuva444p10.mkv": [*_FFV1, "yuva444p10le"],
    "gbrap12.mkv": [*_FFV1, "gbrap12le"],
    "gbrap16.mkv": [*_FFV1, "gbrap16le"],
    "animation.mov": ["-c:v", "qtrle", "-pix_fmt", "argb"],
    "png.mov": ["-c:v", "png", "-pix_fmt", "rgba"],
    "png16.mov": ["-c:v", "png", "-pix_fmt", "rgba64be"],
}
"""Name -> what ffmpeg is told."""
DECODERS = {"vp9.webm": "libvpx-vp9", "vp8.webm": "libvpx"}
"""Of the oracle, where its usual one passes over alpha."""


def disc(
    frames: int = FRAMES, *, hidden: int = 0, colour: tuple[int, int, int] = RED
) -> np.ndarray:
    """(T, H, W, 4) uint8: a red disc with soft edges that wanders to the right.

    Where it does not show at all its colour is `hidden`, as programs leave it there.
    """
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    shown = []
    for frame in range(frames):
        off = np.hypot(down - HEIGHT / 2, across - 24 - 4 * (frame % FRAMES))
        alpha = np.clip((20 - off) / 6, 0, 1)
        rgb = np.where(alpha[..., None] > 0, np.array(RED), hidden)
        shown.append(np.dstack([rgb, np.rint(alpha * 255)]).astype(np.uint8))
    return np.stack(shown)


def textured(frames: int = FRAMES) -> np.ndarray:
    """The same disc with colours that differ from pixel to pixel."""
    pixels = disc(frames)
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgb = np.dstack([across * 2 + 20, down * 4 + 10, (across + down) % 128 + 60])
    pixels[..., :3] = np.where(pixels[..., 3:] > 0, rgb, 0)
    return pixels


def saved(path: Path, pixels: np.ndarray, *options: str, rate: int = RATE) -> Path:
    """Encode (T, H, W, 4) uint8 with ffmpeg; by default as `KINDS` has the file's name."""
    raw = path.with_name(f"{path.name}.raw")
    raw.write_bytes(pixels.tobytes())
    height, width = pixels.shape[1:3]
    ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{width}x{height}", "-r", str(rate)],
        *["-i", raw, *(options or KINDS[path.name]), path],
    )
    raw.unlink()
    return path


def shown_alpha(
    path: Path, size: tuple[int, int], *, before: str = "", after: str = "", decoder: str = ""
) -> np.ndarray:
    """(T, H, W) uint8, rounded: the alpha that an ffmpeg process finds in a file.

    Args:
        path: the file.
        size: (width, height) of the result.
        before: what is done to the pictures.
        after: what is done to the plane.
        decoder: to be used; "" for ffmpeg's own choice.
    """
    steps = ",".join(part for part in (before, "alphaextract,format=gray16le", after) if part)
    raw = ffmpeg(
        *(["-c:v", decoder] if decoder else []),
        *["-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", steps],
        *["-pix_fmt", "gray16le", "-f", "rawvideo", "-"],
    )
    levels = np.frombuffer(raw, np.uint16).reshape(-1, size[1], size[0])
    return np.rint(levels / 257).astype(np.uint8)


def shown_pixels(path: Path, size: tuple[int, int], *, deep: bool = False) -> np.ndarray:
    """(T, H, W, 4) uint8 or uint16: the R'G'B' and alpha that an ffmpeg process finds in a file."""
    raw = ffmpeg(
        *["-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"],
        *["-pix_fmt", "rgba64le" if deep else "rgba", "-f", "rawvideo", "-"],
    )
    return np.frombuffer(raw, np.uint16 if deep else np.uint8).reshape(-1, size[1], size[0], 4)
