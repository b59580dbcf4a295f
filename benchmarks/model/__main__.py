"""Seconds, memory and share of the FLOP floor of the model, stage by stage.

Run `python -m benchmarks.model --model 7b --resolution 1080p --json FILE` in the repository on a
machine with a GPU, or `python benchmarks/model/__main__.py` from any folder. `--model tiny` takes
seconds on a CPU. Only torch, numpy and safetensors are needed.

The session that jobs use (`SeedVR2Session`: encode, transformer, decode, colour) restores pieces of
one shot, with random weights made on the device and a synthetic moving picture. Every measured
piece does the same work. Stages are timed by the device's events. Memory peaks are shown beside the
predictions of `planning.memory`. A matrix product and single convolutions, timed in the same run,
are the reference. `--plain` runs the modules that the golden tests compare (nothing is folded); the
other options switch single optimisations. The run ends with an error if activations are not finite
or not of order one, because its times would mean nothing.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "2k": (2560, 1440), "4k": (3840, 2160)}
TINY_SIZE, TINY_WINDOW, WINDOW = (96, 64), 9, 25


def main() -> int:
    """Measure, print, write."""
    options = parse(sys.argv[1:])
    _set_environment(options)
    # Imported only now, because torch reads the environment when it is loaded.
    from benchmarks.model.report import as_text
    from benchmarks.model.run import run

    report = {"command": sys.argv} | run(options)
    print(as_text(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, defaults of the model filled in."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_work(parser)
    _add_switches(parser)
    options = parser.parse_args(arguments)
    tiny = options.model.startswith("tiny")
    if options.size is None:
        options.size = TINY_SIZE if tiny else SIZES["1080p"]
    options.window = options.window or (TINY_WINDOW if tiny else WINDOW)
    if min(options.warm, options.windows, options.windows_per_piece) < 1:
        parser.error("--warm, --windows and --windows-per-piece must be at least 1")
    if options.plain:
        options.fold, options.plain_dit = False, True
    if options.device == "auto":
        options.device = "cuda:0" if _has_gpu() else "cpu"
    return options


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", choices=("tiny", "tiny-3b", "3b", "7b"), default="7b")
    add("--resolution", dest="size", type=_size, help="720p, 1080p, 2k, 4k or WIDTHxHEIGHT")
    add("--device", default="auto", help="cuda:N or cpu")
    add("--window", type=int, help="latents (25: 100 frames)")
    add("--warm", type=int, default=3, help="pieces that are not counted, at least 1")
    add("--windows", type=int, default=5, help="pieces that are measured")
    add("--windows-per-piece", type=int, default=1, help="a segment of 10 s has about 3")
    add("--time-limit", type=float, default=480, help="seconds after which no piece is begun")
    add("--color", default="auto", help="colour correction")
    add("--profile", action="store_true", help="also list one more piece's kernels")
    add("--json", type=Path, help="file for the whole report")


def _add_switches(parser: argparse.ArgumentParser) -> None:
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("--plain", action="store_true", help="--no-fold and --plain-dit: the golden-parity path")
    add("--fold", action=switch, default=True, help="the VAE's up-samplers folded")
    add("--plain-dit", action="store_true", help="the transformer as trained, modulation apart")
    add("--vae-dtype", choices=("float16", "bfloat16", "float32"))
    add("--dit-dtype", choices=("float16", "bfloat16", "float32"))
    add("--channels-last", action=switch, default=True, help="layout of the VAE's tensors")
    add(
        "--slices",
        type=_slices,
        metavar="E,F,D,G",
        help="latents and top frames of encoder, decoder",
    )
    add("--chunk-tokens", type=int, help="the transformer's tokens at once")
    add("--stay", choices=("all", "weights", "nothing"), help="what stays on the device")
    add("--device-gb", type=float, help="plan for a card with less memory")
    add("--cudnn-benchmark", action="store_true", help="let cuDNN choose by timing")
    add("--deterministic", action=switch, default=True)
    add("--expandable-segments", action=switch, default=True, help="of torch's allocator")
    add("--convs", action=switch, default=True, help="time single convolutions first")


def _size(text: str) -> tuple[int, int]:
    if text in SIZES:
        return SIZES[text]
    width, _, height = text.partition("x")
    return int(width), int(height)


def _slices(text: str) -> tuple[int, int, int, int]:
    encoder, encoder_top, decoder, decoder_top = (int(number) for number in text.split(","))
    return encoder, encoder_top, decoder, decoder_top


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def _set_environment(options: argparse.Namespace) -> None:
    """Set the variables that torch reads when it is loaded."""
    # Deterministic matrix products are refused without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.expandable_segments:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


if __name__ == "__main__":
    sys.exit(main())
