"""Checks of single phases of the model: activations, posterior, padding, windows, colour."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from seedvr2_core.engines.seedvr2.color import ColorMethod, transfer_color
from seedvr2_core.frames import BLACK_ROWS, tensor_to_rgb
from seedvr2_core.planning.windows import first_frame
from seedvr2_core.selfcheck.bench import Baseline, Bench, pad_without_black
from seedvr2_core.selfcheck.differences import (
    FLOAT16_LIMIT,
    ActivationWatch,
    amplified,
    change_at_join,
    drift,
    mean_shift,
    psnr,
    side_by_side,
)
from seedvr2_core.selfcheck.report import FLOAT16, LOWER_RUNG, Outcome, tidy

OVERLAPS = (1, 2, 3)
_COLOR_LATENTS = 2
_OTHER_SEED = 101
_STRIP_ROWS = 64


def check_activations(bench: Bench) -> Outcome:
    """Restore the clip in float16 and note the largest value at every level of the VAE.

    If float16 overflows and the plan asks for it, the checks after this one run the VAE in
    bfloat16, as a job would.
    """
    planned, bench.vae_dtype = bench.vae_dtype, FLOAT16
    watch = ActivationWatch(bench.vae())
    with watch:
        encoded = bench.encode(bench.frames, check=False)
    if watch.overflowed:
        bench.vae_dtype = LOWER_RUNG
        encoded = bench.encode(bench.frames)
        bench.vae_dtype = FLOAT16
    latents_ZhwC = bench.restore(encoded.mean_ZhwC)
    with watch:
        rendered = bench.render(latents_ZhwC, check=False)
    overflowed = watch.overflowed
    bench.vae_dtype = LOWER_RUNG if overflowed and planned == FLOAT16 else planned
    if bench.vae_dtype == FLOAT16:
        bench.keep_baseline(Baseline(encoded, latents_ZhwC, rendered))
    levels = watch.levels
    largest = max((v for v in levels.values() if np.isfinite(v)), default=0.0)
    numbers: dict[str, Any] = {
        "dtype": FLOAT16,
        "limit": FLOAT16_LIMIT,
        "largest": tidy(largest),
        "headroom": tidy(FLOAT16_LIMIT / largest) if largest else None,
        "levels": {level: tidy(value) for level, value in levels.items()},
        "overflowed": overflowed,
        "largest_encoded_latent": tidy(encoded.mean_ZhwC.abs().max().item()),
        "largest_restored_latent": tidy(latents_ZhwC.abs().max().item()),
    }
    if overflowed:
        told = (
            f"{FLOAT16} overflows, first in {overflowed[0]}; the checks below run the VAE in "
            f"{bench.vae_dtype}"
        )
        return Outcome(status="failed", told=told, numbers=numbers)
    where = max(levels, key=lambda level: levels[level])
    told = f"largest {largest:.0f} of {FLOAT16_LIMIT:.0f}, in {where}"
    return Outcome(status="ok", told=told, numbers=numbers)


def check_color(bench: Bench) -> Outcome:
    """Apply every colour method to the clip's first frames as the decoder draws them."""
    part_ZhwC = bench.baseline().latents_ZhwC[:_COLOR_LATENTS]
    content_TCHW = torch.cat(list(bench.draw(part_ZhwC)))
    style_TCHW = bench.pictures(len(content_TCHW))
    sources = [bench.source_rgb(index) for index in range(len(content_TCHW))]
    numbers: dict[str, Any] = {"frames": len(content_TCHW)}
    saved = [bench.save("color_source", sources[-1])]
    for method in get_args(ColorMethod):
        bench.clock.tick()
        out_TCHW = transfer_color(content_TCHW, style_TCHW, method)
        shown = [tensor_to_rgb(out_CHW, "uint8") for out_CHW in out_TCHW]
        numbers[method] = {
            "mean_shift_rgb": mean_shift(shown, sources, device=bench.device),
            "beyond_range_share": tidy((out_TCHW.abs() > 1).float().mean().item()),
            "psnr_db_to_bicubic": tidy(psnr(shown, sources, device=bench.device)),
        }
        saved.append(bench.save(f"color_{method}", shown[-1]))
    raw, auto = (_worst(numbers[method]["mean_shift_rgb"]) for method in ("none", "wavelet"))
    told = f"mean shift of the worst channel: raw {raw:.2f}, wavelet (auto) {auto:.2f} levels"
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def check_posterior(bench: Bench) -> Outcome:
    """Compare a sample of the posterior with its mean, which jobs take, and with another seed."""
    base = bench.baseline()
    mean_ZhwC, std_ZhwC = base.encoded.mean_ZhwC, base.encoded.std_ZhwC
    noise = torch.randn(mean_ZhwC.shape, generator=torch.Generator().manual_seed(_OTHER_SEED))
    sampled_ZhwC = mean_ZhwC + std_ZhwC * noise.to(bench.device)
    sampled = bench.render(bench.restore(sampled_ZhwC)).colored
    other_seed = bench.render(bench.restore(mean_ZhwC, seed=_OTHER_SEED)).colored
    shown = base.rendered.colored
    relative = (std_ZhwC.square().mean().sqrt() / mean_ZhwC.square().mean().sqrt()).item()
    sample_db, seed_db = (
        psnr(sampled, shown, device=bench.device),
        psnr(other_seed, shown, device=bench.device),
    )
    numbers: dict[str, Any] = {
        "relative_rms": tidy(relative),
        "largest_std": tidy(std_ZhwC.max().item()),
        "rms_of_mean": tidy(mean_ZhwC.square().mean().sqrt().item()),
        "psnr_db_sample_to_mean": tidy(sample_db),
        "psnr_db_other_seed": tidy(seed_db),
    }
    middle = len(shown) // 2
    saved = [bench.save("posterior", side_by_side([shown[middle], sampled[middle]]))]
    told = (
        f"std is {relative:.3%} of the mean (rms); a sample changes the picture to "
        f"{sample_db:.1f} dB, another seed to {seed_db:.1f} dB"
    )
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def check_black_rows(bench: Bench) -> Outcome:
    """Compare black rows below the picture, as jobs have them, with reflected ones."""
    base = bench.baseline()
    encoded = bench.encode(bench.frames, padding=pad_without_black)
    without = bench.render(bench.restore(encoded.mean_ZhwC))
    sources = bench.sources_rgb()
    numbers: dict[str, Any] = {
        "on": _bottom(bench, base.rendered.raw, sources),
        "off": _bottom(bench, without.raw, sources),
        "psnr_db_on_to_off": tidy(
            psnr(base.rendered.colored, without.colored, device=bench.device)
        ),
    }
    middle, rows = len(sources) // 2, slice(-_STRIP_ROWS, None)
    strips = [frames[middle][rows] for frames in (sources, base.rendered.colored, without.colored)]
    saved = [bench.save("black_rows", side_by_side(strips, axis=0))]
    told = (
        f"brightness drifts by {numbers['on']['drift_levels']} levels with black rows, "
        f"{numbers['off']['drift_levels']} without; bottom band {numbers['on']['bottom_psnr_db']} "
        f"and {numbers['off']['bottom_psnr_db']} dB to the source"
    )
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def check_overlap(bench: Bench) -> Outcome:
    """Compare two windows that share 1, 2 and 3 latents with a single window."""
    base = bench.baseline()
    numbers: dict[str, Any] = {}
    shown: list[np.ndarray] = []
    for overlap in OVERLAPS:
        windows = bench.windows(overlap)
        latents_ZhwC = bench.restore(base.encoded.mean_ZhwC, windows)
        joined = bench.render(latents_ZhwC).colored
        numbers[f"overlap_{overlap}"] = _at_join(bench, joined, windows)
        join = first_frame(windows[1].start)
        shown.append(amplified(joined[join], base.rendered.colored[join]))
    saved = [bench.save("overlap", side_by_side(shown))]
    changes = ", ".join(
        f"{overlap}: {numbers[f'overlap_{overlap}']['change_at_join']}" for overlap in OVERLAPS
    )
    elsewhere = numbers[f"overlap_{OVERLAPS[-1]}"]["change_elsewhere"]
    told = f"change at the join in levels, by shared latents {changes} (elsewhere {elsewhere})"
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def check_fresh_windows(bench: Bench) -> Outcome:
    """Compare a second window sliced from the shot's latents with one encoded as its own clip."""
    base = bench.baseline()
    windows = bench.windows(OVERLAPS[-1])
    start = windows[1].start
    sliced = bench.render(bench.restore(base.encoded.mean_ZhwC, windows)).colored
    # Latent 0 of a clip holds one frame, so it begins at the last frame of latent `start`.
    own = bench.encode(bench.frames[first_frame(start + 1) - 1 :])
    fresh = bench.render(
        bench.restore(base.encoded.mean_ZhwC, windows, fresh_ZhwC=own.mean_ZhwC)
    ).colored
    difference = own.mean_ZhwC - base.encoded.mean_ZhwC[start:]
    scale = base.encoded.mean_ZhwC[start:].square().mean().sqrt()
    relative = difference.square().mean(dim=(1, 2, 3)).sqrt() / scale
    numbers: dict[str, Any] = {
        "sliced": _at_join(bench, sliced, windows),
        "fresh": _at_join(bench, fresh, windows),
        "psnr_db_fresh_to_sliced": tidy(psnr(fresh, sliced, device=bench.device)),
        "relative_difference_of_latents": [tidy(value) for value in relative.tolist()],
    }
    join = first_frame(start)
    saved = [bench.save("fresh_windows", side_by_side([sliced[join], fresh[join]]))]
    told = (
        f"change at the join: sliced {numbers['sliced']['change_at_join']}, fresh "
        f"{numbers['fresh']['change_at_join']} levels; to the single window "
        f"{numbers['sliced']['psnr_db']} and {numbers['fresh']['psnr_db']} dB"
    )
    return Outcome(status="reported", told=told, numbers=numbers, pictures=saved)


def _at_join(
    bench: Bench, pictures: Sequence[np.ndarray], windows: Sequence[range]
) -> dict[str, Any]:
    zone = range(first_frame(windows[1].start), first_frame(windows[0].stop) + 1)
    reference = bench.baseline().rendered.colored
    return change_at_join(pictures, reference, zone, device=bench.device)


def _bottom(
    bench: Bench, pictures: Sequence[np.ndarray], sources: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Drift of the brightness, and the PSNR of the lowest rows and of the others to the source."""
    parts = {"bottom": slice(-BLACK_ROWS, None), "rest": slice(None, -BLACK_ROWS)}
    numbers: dict[str, Any] = {
        "drift_levels": round(drift(pictures, sources, device=bench.device), 4)
    }
    for name, rows in parts.items():
        cut = ([frame[rows] for frame in frames] for frames in (pictures, sources))
        numbers[f"{name}_psnr_db"] = tidy(round(psnr(*cut, device=bench.device), 2))
    return numbers


def _worst(shifts: Sequence[float]) -> float:
    return max(shifts, key=abs)
