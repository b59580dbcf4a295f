"""Writes the report of the model benchmark as text for people."""

from collections.abc import Iterator
from typing import Any


def as_text(report: dict[str, Any]) -> str:
    """Write the report's main figures as tables; the JSON holds all of them.

    Args:
        report: the report as `benchmarks/model/run.py` makes it.
    """
    return "\n".join(_lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The text, line by line."""
    machine, plan, reference = report["machine"], report["plan"], report["reference"]
    yield f"{machine['device']}, torch {machine['torch']}, cuDNN {machine['cudnn']}, " + (
        f"Triton {machine['triton']}"
    )
    yield f"model {report['options']['model']}, {plan['size'][0]}x{plan['size'][1]} (padded " + (
        f"{plan['padded'][0]}x{plan['padded'][1]}), windows of {plan['window']} latents, "
        f"overlap {plan['overlap']}, {plan['vae_dtype']} VAE, {plan['dit_dtype']} transformer"
    )
    yield f"slices: encoder {plan['encoder_slice']}, {plan['encoder_level_frames']}; decoder " + (
        f"{plan['decoder_slice']}, {plan['decoder_level_frames']}; {plan['chunk_tokens']} tokens; "
        f"caches {'wait elsewhere' if plan['park_caches'] else 'stay'}, "
        f"weights {'stay' if plan['weights_resident'] else 'wait elsewhere'}"
    )
    for attempt in report["out_of_memory"]:
        yield f"OUT OF MEMORY with a budget of {attempt['budget'] / 1e9:.1f} GB; planned anew"
    for message in report["refused"]:
        yield f"REFUSED in deterministic mode, as production would be: {message}"
    yield f"{report['warm']} warm and {report['measured']} measured pieces of " + (
        f"{report['frames_per_piece']} frames; loaded in {report['load_seconds']:.1f} s"
    )
    yield ""
    yield from _stages(report)
    yield ""
    yield f"matrix product {_tera(reference['matmul'])}, afterwards " + (
        f"{_tera(reference['matmul_after'])}; {reference['conv_dtype']} convolutions:"
    )
    for name, rate in reference["convs"].items():
        yield f"  {name:<28} {_tera(rate)}"
    yield ""
    yield from _memory(report["memory"])
    yield ""
    values = [value for pair in report["activations"].values() for value in pair]
    yield f"rms of {len(report['activations'])} activations: {min(values):.2f} to " + (
        f"{max(values):.2f}"
    )
    for name, figures in report["clocks"].items():
        if figures is not None:
            yield f"{name}: {figures['median']:g} ({figures['min']:g} to {figures['max']:g})"
    for warning in report["warnings"]:
        yield f"warning: {warning[:200]}"
    for row in report["profile"][:20]:
        yield f"  {row['seconds']:8.3f} s {row['calls']:6d} x {row['kernel'][:100]}"


def _stages(report: dict[str, Any]) -> Iterator[str]:
    """Seconds of each stage for 100 frames, beside the shortest time that its operations allow."""
    columns = ("s device", "min", "max", "s host", "TFLOP", "TFLOP/s", "s floor", "share")
    yield f"{'per 100 frames':<14}" + "".join(f"{column:>10}" for column in columns)
    for name, row in [*report["stages"].items(), ("total", report["total"])]:
        cells = [
            f"{row[key]:10.3f}"
            for key in ("device_seconds", "device_min", "device_max", "wall_seconds")
        ]
        if "tflop" in row:
            cells.append(f"{row['tflop']:10.4g}{row['tflops']:10.4g}{row['floor_seconds']:10.3f}")
            cells.append(f"{row['share_of_floor']:10.1%}")
        yield f"{name:<14}" + "".join(cells)


def _memory(table: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Peak memory of each phase in GB: what the plan predicted, and what was measured."""
    columns = ("plan", "used", "ratio", "tensors", "measured", "ratio")
    yield f"{'peak GB':<14}" + "".join(f"{column:>10}" for column in columns)
    for name, row in table.items():
        cells = [
            _giga(row["predicted"]),
            _giga(row["used"]),
            _ratio(row.get("ratio")),
            _giga(row["predicted_tensors"]),
            _giga(row["allocated"]),
            _ratio(row.get("tensors_ratio")),
        ]
        yield f"{name:<14}" + "".join(f"{cell:>10}" for cell in cells)


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s"


def _giga(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e9:.3g}"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"
