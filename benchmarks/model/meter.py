"""What the model's production path moves and calculates, counted without a device.

`python -m benchmarks.model.meter --model 7b --resolution 1080p` runs encoder, transformer and
decoder at production shapes and with production's memory plan on torch's "meta" device, where
nothing is computed. For each stage and each line of code it prints calls, bytes read and written,
operations and kernels started, per 100 frames in the middle of a shot, and the seconds that follow
for a card. The counts are exact for the operators that torch is asked for, and our own kernels say
what they cost (seedvr2_core/kernels). What libraries do inside an operator is assumed: see `Card`.
Waiting, decoding and encoding of video are not in it.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from seedvr2_core.kernels.kernel import Cost, num_bytes, observed

CORE = f"{Path('seedvr2_core')}/"
_FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "lift")
_WHOLE = ("rms_norm", "layer_norm")
"""Operators that torch builds of others, but runs as one kernel on a GPU."""
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation")
_ATTENTION = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention")
"""Called by their own names, for each group of windows (`dit/sdpa.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A device. Shares of the peak are assumed from public measurements until a GPU has spoken."""

    name: str
    memory: int
    """Free bytes before anything is loaded."""
    flops: float
    """Peak of dense half precision, operations per second."""
    bandwidth: float
    """Bytes per second that a copy reaches."""
    multiprocessors: int = 132
    conv_share: float = 0.65
    """Of the peak that cuDNN's convolutions reach, channels innermost."""
    product_share: float = 0.8
    """Of the peak that large matrix products reach."""
    attention_share: float = 0.6
    """Of the peak that fused attention reaches, heads up to 256 wide."""
    wide_attention_share: float = 0.08
    """The same for wider heads (memory-efficient kernel), if it fills the card."""
    wide_attention_queries: int = 32
    """Queries that one block of that kernel takes: few queries leave multiprocessors idle."""
    own_attention_share: float = 0.35
    """Of the peak that our own kernel for wide heads reaches: four fifths of what the bandwidth of
    the second-level cache allows (kernels/attention_triton.py)."""
    launch: float = 2e-6
    """Seconds between two kernels."""


CARDS = {
    "h100": Card(name="H100", memory=78_000_000_000, flops=800e12, bandwidth=3.0e12),
    "h200": Card(name="H200", memory=138_000_000_000, flops=800e12, bandwidth=4.2e12),
}


@dataclass(slots=True)
class Row:
    """The sums over the calls of one operator from one line of code in one stage."""

    calls: float = 0
    read: float = 0
    written: float = 0
    flops: float = 0
    launches: float = 0
    seconds: float = 0

    def add(self, other: "Row", times: float = 1) -> None:
        """Add `other` that many times."""
        for field in dataclasses.fields(self):
            sum_ = getattr(self, field.name) + times * getattr(other, field.name)
            setattr(self, field.name, sum_)

    @property
    def moved(self) -> float:
        """Bytes read and written."""
        return self.read + self.written


Key = tuple[str, str, str]
"""(stage, "vae/norm.py:35", operator)."""


class Meter(TorchDispatchMode):
    """Counts, inside its `with` block, what operators and our own kernels move and calculate."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.rows: dict[Key, Row] = {}
        self._stage, self._times = "", 1.0

    @contextmanager
    def stage(self, name: str, *, times: float = 1) -> Iterator[None]:
        """Count a block for a stage, as often as it would run."""
        before = self._stage, self._times
        self._stage, self._times = name, times
        with ExitStack() as stack:
            stack.enter_context(observed(self._own_kernel))
            stack.enter_context(_Attention(self))
            stack.enter_context(self)
            yield
        self._stage, self._times = before

    def note(self, operator: str, row: Row) -> None:
        """Add a call to the line of the core that made it."""
        key = (self._stage, _place(), operator)
        self.rows.setdefault(key, Row()).add(row, self._times)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.split(".")[0]
        if name not in _WHOLE:
            with self:
                out = func.decompose(*args, **(kwargs or {}))  # type: ignore[attr-defined]
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if name == "convolution" and out.dim() == 5:
            # As cuDNN leaves it, and "meta" does not.
            out = torch.empty_like(out, memory_format=torch.channels_last_3d)
        if name not in _FREE and not _is_view(func):
            for operator, row in self._rows_of(func, name, args, kwargs or {}, out):
                self.note(operator, row)
        return out

    def _rows_of(
        self, func: Any, name: str, args: Any, kwargs: Any, out: Any
    ) -> Iterator[tuple[str, Row]]:
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_iter(out) if isinstance(t, Tensor)]
        row = Row(calls=1, launches=1, written=num_bytes(*made))
        if name == "convolution":
            x, weight, bias = args[:3]
            row.read, row.flops = num_bytes(x, weight), _flops(func, args, kwargs, out)
            row.seconds = self._seconds(row, self.card.conv_share, _padding(weight))
            yield name, row
            if bias is not None:
                # torch adds a bias to cuDNN's result in a kernel of its own.
                more = Row(launches=1, read=num_bytes(out), written=num_bytes(out))
                more.seconds = self._seconds(more)
                yield "bias", more
            return
        writes_only = name in ("copy_", "fill_", "zero_", "ones_like", "zeros", "full", "arange")
        row.read = num_bytes(*(tensors[1:] if name == "copy_" else () if writes_only else tensors))
        if name in _ATTENTION:
            q, k, _ = args[:3]
            row.flops = 4 * q.numel() * k.shape[-2]
            row.seconds = self._seconds(row, self.card.attention_share)
        elif name in _PRODUCTS:
            row.flops = _flops(func, args, kwargs, out)
            row.seconds = self._seconds(row, self.card.product_share)
        else:
            row.seconds = self._seconds(row)
        yield name, row

    def _own_kernel(self, name: str, cost: Cost) -> None:
        row = Row(
            calls=1, read=cost.read, written=cost.written, flops=cost.flops, launches=cost.launches
        )
        row.seconds = self._seconds(row, self.card.own_attention_share)
        self.note(name, row)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Count one call of fused attention."""
        queries, width = q.shape[-2:]
        heads = q.shape[:-2].numel()
        row = Row(calls=1, launches=1, read=num_bytes(q, k, v), written=num_bytes(q))
        row.flops = 4 * heads * queries * k.shape[-2] * width
        share = self.card.attention_share
        if width > 256:
            blocks = heads * -(-queries // self.card.wide_attention_queries)
            waves = -(-blocks // self.card.multiprocessors)
            full = blocks / (waves * self.card.multiprocessors)
            share = self.card.wide_attention_share * full
        row.seconds = self._seconds(row, share)
        self.note("attention", row)

    def _seconds(self, row: Row, share: float = 1.0, padding: float = 1.0) -> float:
        """The longer of calculating and moving, and the gaps before the kernels."""
        calculating = row.flops * padding / (self.card.flops * share)
        return max(calculating, row.moved / self.card.bandwidth) + row.launches * self.card.launch


class _Attention(TorchFunctionMode):
    """On "meta" torch would write attention's scores to memory, which no GPU's kernel does."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        self._meter.attention(q, k, v)
        return q.new_empty((*q.shape[:-1], v.shape[-1]))


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    if func.__name__.startswith("_addmm_activation"):
        return 2 * args[1].shape[-1] * out.numel()
    return flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)


def _padding(weight: Tensor) -> float:
    """How much more a convolution's kernel multiplies than it is asked for: input channels are
    taken 64 at a time, below that 8 at a time; output channels at least 32 at a time."""
    out_channels, in_channels = weight.shape[:2]
    step = 64 if in_channels > 64 else 8
    padded_in = -(-in_channels // step) * step
    return padded_in / in_channels * max(out_channels, 32) / out_channels


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(
        value.alias_info is not None and not value.alias_info.is_write for value in returns
    )


def _place() -> str:
    """The innermost line of the core outside the room of kernels."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        _, found, path = frame.f_code.co_filename.rpartition(CORE)
        if found and not path.startswith("kernels/kernel.py"):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def part_of(key: Key) -> str:
    """What kind of work a row is: the parts of the tables and of the budgets."""
    _, place, operator = key
    path = place.split(":")[0]
    if operator == "convolution":
        return "convolution"
    if operator == "bias":
        return "bias"
    if operator == "add_bias":
        return "joins"  # the sum that ends a block, or an up-sampler's phases
    if "norm" in path or operator == "norm_silu":
        return "norm"
    if operator in _PRODUCTS:
        return "linear"
    if "attention" in operator:
        return "attention"
    return "copies" if operator in ("copy_", "clone", "cat", "constant_pad_nd") else "rest"


def sums(rows: Mapping[Key, Row], by: Callable[[Key], Any]) -> dict[Any, Row]:
    """Add rows that `by` gives the same name."""
    found: dict[Any, Row] = {}
    for key, row in rows.items():
        found.setdefault(by(key), Row()).add(row)
    return found


def as_text(rows: Mapping[Key, Row], *, lines: int) -> str:
    """Tables of stages, of parts and of the lines of code that take longest."""
    head = f"{'':58}{'calls':>9}{'kernels':>9}{'read TB':>9}{'write TB':>9}{'PFLOP':>8}{'s':>8}"
    text = [head]

    def add(name: str, row: Row) -> None:
        counts = f"{name:58.58}{row.calls:9.0f}{row.launches:9.0f}"
        text.append(
            f"{counts}{row.read / 1e12:9.3f}{row.written / 1e12:9.3f}"
            f"{row.flops / 1e15:8.3f}{row.seconds:8.2f}"
        )

    for stage, row in sums(rows, lambda key: key[0]).items():
        add(stage, row)
    add("total", sums(rows, lambda _: "").get("", Row()))
    text.append("")
    for name, row in sorted(sums(rows, lambda key: (key[0], part_of(key))).items()):
        add(" ".join(name), row)
    text.append("")
    for key, row in sorted(rows.items(), key=lambda item: -item[1].seconds)[:lines]:
        add(" ".join(key), row)
    return "\n".join(text)


def load_text(model: str) -> str:
    """Predicted seconds for loading the transformer: first start, folded before, in memory."""
    from benchmarks.model.setup import ENGINES
    from seedvr2_core.config import DIT_CONFIGS, find_engine
    from seedvr2_core.dit.memory import weight_bytes
    from seedvr2_core.weights.staging import seconds

    size = weight_bytes(DIT_CONFIGS[find_engine(ENGINES[model]).dit])
    first, cold = seconds.first_seconds(size), seconds.folded_seconds(size, warm=False)
    warm = seconds.folded_seconds(size, warm=True)
    return (
        f"load of {size / 1e9:.1f} GB: first start {first:.1f} s (hashed, then read from memory), "
        f"folded weights from a disk of {seconds.DISK / 1e9:.0f} GB/s {cold:.1f} s, from memory "
        f"{warm:.1f} s; page-locked copies at {seconds.LINK / 1e9:.0f} GB/s"
    )


def main() -> int:
    """Count and print."""
    # The model is imported only here, so that other code can use the meter alone.
    from benchmarks.model.meter_stages import SIZES, meter_piece

    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.meter")
    parser.add_argument("--model", choices=("3b", "7b"), default="7b")
    parser.add_argument("--resolution", choices=SIZES, default="1080p")
    parser.add_argument("--card", choices=CARDS, default="h100")
    parser.add_argument("--tflops", type=float, help="the card's peak, measured")
    parser.add_argument("--bandwidth", type=float, help="the card's bandwidth in TB/s, measured")
    parser.add_argument("--lines", type=int, default=25, help="lines of code to list")
    parser.add_argument("--off", nargs="*", default=[], help="switches to turn off")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    card = CARDS[options.card]
    if options.tflops:
        card = dataclasses.replace(card, flops=options.tflops * 1e12)
    if options.bandwidth:
        card = dataclasses.replace(card, bandwidth=options.bandwidth * 1e12)
    rows = meter_piece(options.model, options.resolution, card, off=options.off)
    print(f"{options.model} at {options.resolution} on {card.name}, predicted, per 100 frames")
    print(as_text(rows, lines=options.lines))
    if any(operator == "frame_attention" for _, _, operator in rows):
        share = f"{card.own_attention_share:.0%}"
        print(f"attention of the VAE: by our own kernel, assumed to reach {share} of the peak")
    print(load_text(options.model))
    if options.json:
        table = [
            dict(zip(("stage", "place", "operator"), key, strict=True)) | dataclasses.asdict(row)
            for key, row in rows.items()
        ]
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
