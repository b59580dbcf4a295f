"""Rules of the older programs that the product does not use, kept to read their golden data.

BD is the original inference script, A the service we replace, N a third program. Written from
their description; the product's own rules are in seedvr2_core.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.color import blur, rank_match, wavelet_radii, wavelet_rgb
from seedvr2_core.frames import FRAMES_PER_LATENT

# --- sampling -----------------------------------------------------------------------------------


def sampling_timesteps(n: int) -> list[float]:
    """n timesteps from 1000 down, evenly, without 0."""
    return [1000.0 * (1 - i / n) for i in range(n)]


def timestep_shift(t: float, latent_shape: Sequence[int]) -> float:
    """Shift of the condition's timestep by resolution and length."""
    latent_frames, height, width = latent_shape
    num_frames = (latent_frames - 1) * FRAMES_PER_LATENT + 1
    pixels = 64 * height * width
    if num_frames > 1:
        k = _line(pixels * num_frames, (256 * 256 * 37, 1.0), (1280 * 720 * 145, 5.0))
    else:
        k = _line(pixels, (256 * 256, 1.0), (1024 * 1024, 3.2))
    u = t / 1000
    return 1000 * k * u / (1 + (k - 1) * u)


def _line(x: float, p: tuple[float, float], q: tuple[float, float]) -> float:
    slope = (q[1] - p[1]) / (q[0] - p[0])
    return p[1] + slope * (x - p[0])


def noised_latent(latent: Tensor, noise: Tensor, t: float) -> Tensor:
    """The latent moved along the line toward noise, as a condition may be."""
    return (1 - t / 1000) * latent + (t / 1000) * noise


def euler_step(x_t: Tensor, pred: Tensor, t: float, s: float) -> Tensor:
    """One step from t to s along the predicted line."""
    x_0, x_T = x_t - (t / 1000) * pred, x_t + (1 - t / 1000) * pred
    return (1 - s / 1000) * x_0 + (s / 1000) * x_T


def guided(pos: Tensor, neg: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance; `rescale` mixes in each position's deviation over channels."""
    out = neg + scale * (pos - neg)
    if rescale == 0.0:
        return out
    factor = pos.std(-1, keepdim=True) / out.std(-1, keepdim=True)
    return out * (rescale * factor + (1 - rescale))


# --- pictures -----------------------------------------------------------------------------------


def resize_rule(
    in_hw: Sequence[int], rule: str, res_hw: Sequence[int] | None, short_side: int | None
) -> tuple[list[int], list[int], list[int]]:
    """(resized, cropped, crop offset) of the rules by area (BD) and by short side (A, N)."""
    if rule == "area":
        assert res_hw is not None
        resized = _area_size(in_hw, math.sqrt(res_hw[0] * res_hw[1]) ** 2)
    else:
        assert short_side is not None
        resized = _side_size(in_hw, short_side)
    cropped = [n - n % 16 for n in resized]
    offset = [round((n - m) / 2.0) for n, m in zip(resized, cropped, strict=True)]
    return resized, cropped, offset


def _area_size(in_hw: Sequence[int], area: float) -> list[int]:
    scale = math.sqrt(area / (in_hw[0] * in_hw[1]))
    return [round(n * scale) for n in in_hw]


def _side_size(in_hw: Sequence[int], short_side: int) -> list[int]:
    height, width = in_hw
    long_side = int(short_side * max(height, width) / min(height, width))
    return [short_side, long_side] if height <= width else [long_side, short_side]


def preprocess(
    frames_u8: Tensor, mode: str, max_area: float | None, short_side: int | None
) -> Tensor:
    """uint8 (T, 3, h, w) to float32 [-1, 1] (3, T, h', w'): resize, clamp, crop the centre."""
    in_hw = list(frames_u8.shape[-2:])
    if mode == "area":
        assert max_area is not None
        resized = _area_size(in_hw, max_area)
    else:
        assert short_side is not None
        resized = _side_size(in_hw, short_side)
    x = frames_u8.float() / 255
    if resized != in_hw:
        x = torch.nn.functional.interpolate(
            x, size=resized, mode="bicubic", align_corners=False, antialias=True
        )
    (height, width) = (n - n % 16 for n in resized)
    top, left = round((resized[0] - height) / 2.0), round((resized[1] - width) / 2.0)
    x = x.clamp(0, 1)[..., top : top + height, left : left + width]
    return ((x - 0.5) / 0.5).transpose(0, 1)


def padded_num_frames(num_frames: int) -> int:
    """The smallest 4n + 1 that is not below `num_frames`: what the VAE can encode."""
    return -(-(num_frames - 1) // FRAMES_PER_LATENT) * FRAMES_PER_LATENT + 1


def pad_frames(n: int, rule: str) -> list[int]:
    """Source index of each frame after padding to 4n + 1."""
    target = padded_num_frames(n)
    indices = list(range(n))
    mirrored = list(range(n - 2, -1, -1))[: target - n]
    if rule == "numz_mirror" and len(mirrored) == target - n:
        indices += mirrored
    return indices + [indices[-1]] * (target - len(indices))


# --- colour -------------------------------------------------------------------------------------


def wavelet_numz(content: Tensor, style: Tensor) -> Tensor:
    """N: the five-scale split with limited radius, clamped."""
    limit = max(1, min(content.shape[-2:]) // 8)
    out = [wavelet_rgb(c, s, limit=limit) for c, s in zip(content, style, strict=True)]
    return torch.stack(out).clamp(-1, 1)


def low_frequencies(x: Tensor) -> Tensor:
    """The five-scale blur alone."""
    return torch.stack([blur(frame, wavelet_radii(5)) for frame in x])


def hsv(content: Tensor, style: Tensor) -> Tensor:
    """N: hue and value of the content, saturation matched inside each of 12 hue bins."""
    c_hue, c_sat, c_value = _to_hsv(content)
    s_hue, s_sat, _ = _to_hsv(style)
    matched = c_sat.clone()
    for i in range(12):
        in_c, in_s = _in_hue_bin(c_hue, i), _in_hue_bin(s_hue, i)
        if in_c.sum() > 100 and in_s.sum() > 100:
            matched[in_c] = rank_match(c_sat[in_c], s_sat[in_s])
    return _from_hsv(c_hue, matched, c_value)


def _in_hue_bin(hue: Tensor, i: int) -> Tensor:
    inside = (hue >= i / 12) & (hue < (i + 1) / 12)
    return inside | (hue >= 11 / 12) if i == 0 else inside


def wavelet_adaptive(content: Tensor, style: Tensor) -> Tensor:
    """N: the split, with the hsv result where it would be too saturated."""
    split = wavelet_numz(content, style)
    c_sat, s_sat, split_sat = (_to_hsv(x)[1] for x in (content, style, split))
    share = torch.sigmoid(5 * (c_sat - s_sat - 0.15)) * ((split_sat - s_sat) > 0.075)
    share = share[:, None]
    return split * (1 - share) + hsv(content, style) * share


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[-1, 1] (T, 3, h, w) to hue in [0, 1), saturation, value, each (T, h, w)."""
    r, g, b = ((x.clamp(-1, 1) + 1) / 2).unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    delta = value - torch.minimum(torch.minimum(r, g), b)
    safe = torch.where(delta == 0, 1.0, delta)
    hue = torch.zeros_like(value)
    hue = torch.where(value == r, ((g - b) / safe) % 6, hue)
    hue = torch.where(value == g, (b - r) / safe + 2, hue)
    hue = torch.where(value == b, (r - g) / safe + 4, hue)
    hue = torch.where(delta == 0, 0.0, hue / 6)
    saturation = torch.where(value == 0, 0.0, delta / torch.where(value == 0, 1.0, value))
    return hue, saturation, value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sector = (hue * 6).floor()
    f = hue * 6 - sector
    p = value * (1 - saturation)
    q = value * (1 - f * saturation)
    t = value * (1 - (1 - f) * saturation)
    picks = [
        (value, t, p),
        (q, value, p),
        (p, value, t),
        (p, q, value),
        (t, p, value),
        (value, p, q),
    ]
    out = torch.zeros_like(torch.stack([hue] * 3, dim=1))
    for i, rgb in enumerate(picks):
        here = (sector.long() % 6 == i)[:, None]
        out = torch.where(here, torch.stack(rgb, dim=1), out)
    return out * 2 - 1


# --- windows of frames --------------------------------------------------------------------------


def window_list(num_frames: int, batch: int, overlap: int) -> list[list[int]]:
    """A: windows of frames, each `batch` long but the last."""
    spans: list[list[int]] = []
    start = 0
    while not spans or spans[-1][1] < num_frames:
        spans.append([start, min(start + batch, num_frames)])
        start += max(1, batch - overlap)
    return spans


def stitch(windows: Sequence[Tensor], overlap: int, mode: str) -> Tensor:
    """A: linear crossfade of frames (T, h, w, 3) in float16; "later" keeps the older frames."""
    pieces = [windows[0]]
    for window in windows[1:]:
        if len(window) <= overlap:
            pieces.append(window)
            continue
        if mode == "crossfade" and len(pieces[-1]) >= overlap:
            weights = torch.linspace(0, 1, overlap).view(-1, 1, 1, 1)
            old, new = pieces[-1][-overlap:].float(), window[:overlap].float()
            mixed = (old * (1 - weights) + new * weights).half()
            pieces[-1] = torch.cat([pieces[-1][:-overlap], mixed])
        pieces.append(window[overlap:])
    return torch.cat(pieces)


def blend_hann(prev: Tensor, cur: Tensor) -> Tensor:
    """N: crossfade that holds the old frames for a third and the new ones for a third."""
    k = len(prev)
    t = torch.linspace(0, 1, k)
    old = 0.5 + 0.5 * torch.cos(math.pi * (3 * t - 1).clamp(0, 1)) if k >= 3 else 1 - t
    old = old.view(-1, *[1] * (prev.ndim - 1))
    return prev * old + cur * (1 - old)


# --- planning of the old service ----------------------------------------------------------------

_BUDGETS = {"720p": 921_600, "1080p": 2_073_600, "2k": 3_686_400, "4k": 8_294_400}
_LARGE = ("2k", "4k")


def dimensions(w: int, h: int, resolution: str) -> dict[str, int | list[int]]:
    """A: target size, its short side, and what the program made of it."""
    ratio = math.sqrt(_BUDGETS.get(resolution, 2_073_600) / (w * h))
    target = [round(n * ratio / 16) * 16 for n in (w, h)]
    resized, cropped, _ = resize_rule([h, w], "side", None, min(target))
    return {
        "target_wh": target,
        "short_side": min(target),
        "resized_wh": resized[::-1],
        "output_wh": cropped[::-1],
    }


def gpu(resolution: str) -> str:
    """A: which GPU a resolution went to."""
    return "H100" if resolution in ("720p", "1080p") else "H200"


def eta(frames: int, resolution: str, batch: int) -> int:
    """A: predicted seconds."""
    batches = max(1, math.ceil(frames / batch))
    compute = {"720p": 58, "1080p": 61, "2k": 120, "4k": 250}.get(resolution, 61) * frames / 100
    reload = 45 + 12 * (batches - 1)
    join = 2 * (batches - 1)
    save = 7.6 * frames / 100 + 10
    upload = max(5, int(frames / 100 * 3))
    return int(1.5 * (compute + reload + join + save + upload))


def stall_timeout(resolution: str, batch: int) -> int:
    """A: seconds of silence after which the watchdog killed the job."""
    rate = {"720p": 50, "1080p": 70, "2k": 120, "4k": 250}.get(resolution, 62)
    expected = int(rate * batch / 100) + 45
    if resolution in _LARGE:
        return max(int(expected * 3), 360)
    return max(int(expected * 1.5), 180)
