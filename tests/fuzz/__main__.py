"""Fuzz one target with atheris: python -m tests.fuzz TARGET CORPUS [libFuzzer's options].

CORPUS is a folder; it begins with the target's seeds and grows by the inputs that reach new code.
The exit code is not 0 if an input was found at which the code is at fault; libFuzzer prints it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["seedvr2_core", "tasks", "deployments", "starlette"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    """Run the fuzzer until libFuzzer's limit, -max_total_time=SECONDS, or a finding."""
    name, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number:02d}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
