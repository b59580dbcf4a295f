"""Hostile weights: refused by tensor name, and nothing crashes or takes much memory."""

import contextlib
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.checkpoint import identify, open_checkpoint
from seedvr2_core.weights.reader import open_reader
from tests.kits import quantized as kit

QKV = "blocks.0.attn.proj_qkv.vid.weight"
PLACE = QKV.removesuffix(".weight")
SCALE, CONFIG = QKV + "_scale", PLACE + ".comfy_quant"
MUTATIONS = 200
SLACK_BYTES = 1_500_000
"""What looking at a file takes beside its size: interpreter, layouts, messages."""


@pytest.fixture(scope="module")
def state() -> kit.State:
    return kit.wide_state("dit-7b")


def look(path: Path) -> str:
    """The error of looking at a file and of reading all of it."""
    with pytest.raises(CheckpointError) as caught:
        _read_whole(path)
    return str(caught.value)


def _read_whole(path: Path) -> None:
    identify(path, layouts=kit.wide_layouts)
    with open_checkpoint(path, "dit-7b", layouts=kit.wide_layouts) as found:
        found.check_values()


def _without(state: kit.State, name: str) -> kit.State:
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: _without(s, SCALE), f"{QKV} is quantised and {SCALE} is missing"),
        (lambda s: _without(s, CONFIG), f"{QKV} (I8, no comfy_quant)"),
        (lambda s: _without(s, QKV), f"1 missing: {QKV}"),
        (lambda s: {**s, SCALE: torch.ones(5)}, f"{SCALE} is F32 [5], expected one number or"),
        (lambda s: {**s, SCALE: torch.ones(1, 256)}, f"{SCALE} is F32 [1, 256]"),
        (lambda s: {**s, SCALE: s[SCALE] * torch.nan}, f"{QKV} has 196608 of 196608 values"),
        (lambda s: {**s, QKV: s[QKV].half()}, f"{QKV} is F16 [768, 256], expected a matrix in I8"),
        (lambda s: {**s, QKV: s[QKV].T.contiguous()}, SCALE),
        (lambda s: {**s, CONFIG: kit.marker(format="nvfp4")}, f"{QKV} (format 'nvfp4')"),
        (lambda s: {**s, CONFIG: kit.marker(format="mxfp8")}, f"{QKV} (format 'mxfp8')"),
        (lambda s: {**s, CONFIG: kit.marker()[:1]}, f"{CONFIG} is no JSON object"),
        (lambda s: {**s, CONFIG: torch.ones(9000, dtype=torch.uint8)}, f"{CONFIG} is U8 [9000]"),
        (
            lambda s: {**s, CONFIG: kit.marker(format="int8_tensorwise", convrot=True)},
            "convrot_groupsize None, expected a power of 4 that divides 256",
        ),
        (
            lambda s: {
                **s,
                CONFIG: kit.marker(format="int8_tensorwise", convrot=True, convrot_groupsize=32),
            },
            "convrot_groupsize 32, expected a power of 4",
        ),
        (lambda s: {**s, "blocks.9.x.weight_scale": torch.ones(1)}, "blocks.9.x.weight_scale"),
    ],
    ids=[
        *("no scale", "no format", "no weight", "scale of another size", "scale across"),
        *("scale not finite", "weight not quantised", "transposed", "nvfp4", "mxfp8", "no JSON"),
        *("long text", "rotated by nothing", "rotated by 32", "scale of nothing"),
    ],
)
def test_scaled_files_are_refused_by_name(
    tmp_path: Path, state: kit.State, change: Callable[[kit.State], kit.State], told: str
) -> None:
    stored, _ = kit.scaled_int8(state, group=kit.GROUP)
    assert told in look(kit.write(tmp_path / "x", change(stored)))


WRITERS: dict[str, Callable[[Path, kit.State], object]] = {
    "fp8": lambda path, state: kit.write(
        path, {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for n, t in state.items()}
    ),
    "fp8 scaled": lambda path, state: kit.write(path, kit.scaled_fp8(state)[0]),
    "int8": lambda path, state: kit.write(path, kit.scaled_int8(state)[0]),
    "int8 convrot": lambda path, state: kit.write(path, kit.scaled_int8(state, group=kit.GROUP)[0]),
    **{
        form: partial(kit.write_gguf, form=form)
        for form in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "F16", "BF16")
    },
}


@pytest.mark.parametrize("form", WRITERS)
def test_wrong_files_of_every_form_are_refused_by_name(
    tmp_path: Path, state: kit.State, form: str
) -> None:
    """A tensor is missing, one has another shape, one is too many, or the file ends early."""
    write, other = WRITERS[form], "blocks.1.attn.proj_qkv.vid.weight"
    write(tmp_path / "x", _without(state, QKV))
    assert f"missing: {QKV}" in look(tmp_path / "x")
    write(tmp_path / "x", {**state, QKV: torch.ones(512, 256)})
    assert f"of another shape: {QKV} ([512, 256], expected [768, 256])" in look(tmp_path / "x")
    write(tmp_path / "x", {**state, "blocks.9.x.weight": state[other]})
    assert "unexpected: blocks.9.x.weight" in look(tmp_path / "x")
    write(tmp_path / "x", state)
    with (tmp_path / "x").open("r+b") as file:
        file.truncate((tmp_path / "x").stat().st_size * 9 // 10)
    told = look(tmp_path / "x")
    assert "is truncated" in told
    assert any(name.rpartition(".")[0] in told for name in state)


def test_a_plain_file_with_one_quantised_weight_of_another_is_read(
    tmp_path: Path, state: kit.State
) -> None:
    """Mixed files are common: some layers stay as they were."""
    stored, numbers = kit.scaled_fp8(state)
    mixed = {**{n: t.half() for n, t in state.items()}, QKV: stored[QKV], SCALE: stored[SCALE]}
    with open_checkpoint(
        kit.write(tmp_path / "x", mixed), "dit-7b", layouts=kit.wide_layouts
    ) as found:
        torch.testing.assert_close(found[QKV], numbers[QKV])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("positive_conditioning", torch.ones(5, 48), "positive_conditioning ([5, 48], expected"),
        ("negative_conditioning", torch.ones(2, 7, 48), "negative_conditioning ([2, 7, 48]"),
        ("positive_conditioning", torch.ones(6, 48).int(), "positive_conditioning (I32)"),
        ("conditioning", torch.ones(6, 48), "1 unexpected: conditioning"),
    ],
)
def test_texts_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, state: kit.State, name: str, value: torch.Tensor, told: str
) -> None:
    assert told in look(kit.write(tmp_path / "x", {**state, name: value}))


def test_truncated_gguf_names_what_is_gone(tmp_path: Path, state: kit.State) -> None:
    kit.write_gguf(tmp_path / "x", state, "Q8_0")
    content = (tmp_path / "x").read_bytes()
    for share in (0.999, 0.5, 0.01, 0.0001):
        (tmp_path / "cut").write_bytes(content[: max(5, int(len(content) * share))])
        told = look(tmp_path / "cut")
        assert "is truncated" in told or (share < 0.001 and "header claims" in told)
        assert share < 0.1 or ".weight" in told or ".bias" in told


def test_gguf_of_a_type_that_is_not_read(tmp_path: Path, state: kit.State) -> None:
    kit.write_gguf(tmp_path / "x", state, "Q8_0")
    content = bytearray((tmp_path / "x").read_bytes())
    place = content.index(QKV.encode()) + len(QKV) + 4 + 2 * 8
    assert content[place] == 8
    content[place] = 2
    (tmp_path / "x").write_bytes(content)
    assert f"1 of a dtype that is not read: {QKV} (Q4_0)" in look(tmp_path / "x")


def _gguf(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def _key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def _tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    head = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)


HUGE = 2**62


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_gguf(version=1), "GGUF of version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF of version 50331648"),
        (_gguf(tensors=HUGE), f"claims {HUGE} tensors"),
        (_gguf(keys=HUGE), f"claims {HUGE} metadata"),
        (_gguf(_key("a", 9, struct.pack("<IQ", 8, HUGE)), keys=1), f"claims {HUGE} values of 'a'"),
        (_gguf(_key("a", 9, struct.pack("<IQ", 0, HUGE)), keys=1), "truncated"),
        (_gguf(_key("a", 8, struct.pack("<Q", HUGE)), keys=1), "truncated"),
        (_gguf(_key("a", 99, b""), keys=1), "'a' has the unknown type 99"),
        (_gguf(_key("a", 9, struct.pack("<IQ", 9, 0) * 9), keys=1), "nearest"),
        (
            _gguf(_key("a", 9, struct.pack("<IQ", 9, 1) * 9), keys=1),
            "unknown type 9",
        ),
        (_gguf(_key("general.alignment", 4, struct.pack("<I", 33)), keys=1), "no power of two"),
        (_gguf(struct.pack("<Q", HUGE), bytes(99), tensors=1), "the name of a tensor claims"),
        (_gguf(_tensor("a.b", (1,) * 9, 0, 0), tensors=1), "a.b has 9 dimensions"),
        (_gguf(_tensor("a.b", (HUGE, HUGE), 0, 0), tensors=1), "truncated, and with it 1 of 1"),
        (_gguf(_tensor("a.b", (100,), 8, 0), tensors=1), "a.b has 100 columns, Q8_0 packs 32"),
        (_gguf(_tensor("a.b", (1,), 0, 7), tensors=1), "a.b begins at byte 7"),
        (
            _gguf(*[_tensor(n, (8,), 0, 0) for n in ("a.b", "a.c")], bytes(99), tensors=2),
            "a.c lies in a.b",
        ),
        (_gguf(*[_tensor("a.b", (8,), 0, 0)] * 2, bytes(99), tensors=2), "named twice: a.b"),
        (
            _gguf(
                _key("comfy.gguf.orig_shape.a.b", 9, struct.pack("<IQii", 5, 2, 3, 5)),
                *(_tensor("a.b", (8,), 0, 0), bytes(99)),
                tensors=1,
                keys=1,
            ),
            r"a.b is noted as \[3, 5\] but is \[8\]",
        ),
    ],
)
def test_gguf_headers_that_lie(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        identify(tmp_path / "x", layouts=kit.wide_layouts)


@pytest.mark.long
@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_mutated_headers_crash_nothing_and_take_no_memory(
    tmp_path: Path, state: kit.State, form: str
) -> None:
    """Each mutation changes some bytes of the header; what is still valid is read whole."""
    path = tmp_path / "x"
    small = {name: state[name] for name in list(state)[:12]}
    if form == "gguf":
        kit.write_gguf(path, small, "Q8_0")
        end = path.read_bytes().index(list(small)[-1].encode()) + 60
    else:
        kit.write(path, kit.scaled_int8(small, group=kit.GROUP)[0])
        end = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    whole, rng = path.read_bytes(), random.Random(form)
    _try(path)  # what the first look loads
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(4, end)
            value = rng.choice((rng.randbytes(1), b"\xff" * 8, b"\x00" * 8, b"9", b"[" * 40))
            content[place : place + len(value)] = value
        if rng.random() < 0.1:
            content = content[: rng.randrange(9, len(content))]
        path.write_bytes(content)
        tracemalloc.start()
        try:
            stored = _try(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= len(content) + SLACK_BYTES
        # Tensors are not Python's memory.
        assert stored <= len(content)


def _try(path: Path) -> int:
    """Recognise a file, then read all that its header names: either works or is refused.

    Returns:
        Bytes of the tensor that takes most as it is stored, with all that belongs to it.
    """
    most = 0
    with contextlib.suppress(CheckpointError):
        identify(path, layouts=kit.wide_layouts)
    with contextlib.suppress(CheckpointError):
        reader = open_reader(path)
        for name in reader.tensors:
            stored = reader.read(name)
            most = max(most, stored.nbytes)
            if not isinstance(stored, torch.Tensor):
                stored.expand()
        reader.close()
    return most


def test_a_header_of_nothing_but_brackets_and_one_of_equal_names(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for text in (b'{"a":' + b"[" * 200_000, b"{" + b'"a":1,' * 100_000 + b'"a":1}'):
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(CheckpointError, match="no JSON"):
            identify(path, layouts=kit.wide_layouts)
    text = json.dumps({"a": "b" * 5 * 2**20}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match="its header claims"):
        identify(path, layouts=kit.wide_layouts)
