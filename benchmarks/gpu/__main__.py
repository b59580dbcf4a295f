"""Everything that a GPU has to say, in one command on a bare machine.

Run `make gpu-bench`, or `python -m benchmarks.gpu`, in the repository. It needs torch 2.11 or
newer, numpy, safetensors and Triton, nothing else. In this order it reports: the device, and
whether a child that is confined as in a job reaches it; convolutions, and which kernels they
become; each kernel of ours, right and how fast; attention, the first call and the later ones;
golden cases in half precision; then pieces of a shot through the production session at 1080p with
the 7B, plain and fast, and with single steps switched off, the model loaded once; then 720p, and
the 3B. `--long` adds 4k. On a CPU the tiny model stands in, which shows that it runs.

A line of JSON is written after each measurement, so a run that is cut keeps what it has. A part
that fails writes its error and the next one runs; the exit code tells. What no time is left for is
named.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

SECONDS = 450.0
LONG_SECONDS = 1500.0


def main() -> int:
    """Measure part after part."""
    options = parse(sys.argv[1:])
    # Before torch is loaded: deterministic matrix products, and an allocator as in production.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from benchmarks.gpu.report import LineReport
    from benchmarks.gpu.sections import run_all

    with LineReport(options.out, began=time.perf_counter(), seconds=options.seconds) as report:
        run_all(report, device=options.device, only=options.only, long=options.long)
        return report.exit_code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("gpu-bench.jsonl"), help="file for the lines")
    add("--device", default="auto", help="cuda:N or cpu")
    add("--only", default="", help="parts to run, with commas between them")
    add("--seconds", type=float, help="after which no part is begun")
    add("--long", action="store_true", help="4k as well")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (LONG_SECONDS if options.long else SECONDS)
    if options.device == "auto":
        options.device = "cuda:0" if Path("/dev/nvidiactl").exists() else "cpu"
    return options


if __name__ == "__main__":
    sys.exit(main())
