"""Quantised weights: the numbers are right, they stay small, and the model's bits are the same."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch

from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import layer_sizes, streamed_weight_bytes, weight_bytes
from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.engines.seedvr2.parking import GuestModule
from seedvr2_core.planning.peaks import CONSTANTS
from seedvr2_core.weights.checkpoint import identify, open_checkpoint
from seedvr2_core.weights.matching import NOTHING_QUANTIZED, QUANTIZED_DTYPES
from seedvr2_core.weights.quantized import (
    EXPANDED_AT_ONCE,
    QuantizedLinear,
    QuantizedWeight,
    assign_quantized,
    unrotated,
)
from seedvr2_core.weights.reader import BLOCK_BYTES
from tests.kits import quantized as kit
from tests.kits.gpu.live_bytes import LiveBytes

Writer = Callable[[Path, kit.State], kit.State]
QKV = "blocks.0.attn.proj_qkv.vid.weight"


def _plain_fp8(path: Path, state: kit.State) -> kit.State:
    stored = {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for n, t in state.items()}
    kit.write(path, stored)
    return {name: tensor.float() for name, tensor in stored.items()}


def _scaled_fp8(path: Path, state: kit.State, *, by_row: bool) -> kit.State:
    stored, numbers = kit.scaled_fp8(state, by_row=by_row)
    kit.write(path, stored)
    return numbers


def _int8(path: Path, state: kit.State, *, group: int) -> kit.State:
    stored, numbers = kit.scaled_int8(state, group=group)
    kit.write(path, stored)
    return numbers


FORMS: dict[str, tuple[str, Writer]] = {
    "fp8": ("F8_E4M3", _plain_fp8),
    "fp8 scaled": ("F8_E4M3+scale", functools.partial(_scaled_fp8, by_row=False)),
    "fp8 scaled by row": ("F8_E4M3+scale", functools.partial(_scaled_fp8, by_row=True)),
    "int8": ("I8+scale", functools.partial(_int8, group=0)),
    "int8 convrot": ("I8+convrot", functools.partial(_int8, group=kit.GROUP)),
    **{
        form: (form, functools.partial(kit.write_gguf, form=form))
        for form in ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
    },
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def load(path: Path, part: str, text, dtype: torch.dtype) -> FoldedDiT:
    with open_checkpoint(path, part, layouts=kit.wide_layouts, keep_quantized=True) as found:
        return load_folded(kit.CONFIGS[part], found, text, dtype=dtype, assign=assign_quantized)


@EACH_FORM
def test_the_numbers_are_those_of_the_formula(tmp_path: Path, form: str) -> None:
    tag, write = FORMS[form]
    numbers = write(tmp_path / "x", kit.wide_state("dit-7b"))
    assert tag in identify(tmp_path / "x", layouts=kit.wide_layouts).dtypes
    with open_checkpoint(tmp_path / "x", "dit-7b", layouts=kit.wide_layouts) as found:
        assert found.keys() == numbers.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.float(), numbers[name], rtol=1e-6, atol=1e-7)


@EACH_FORM
@pytest.mark.parametrize(
    ("part", "dtype"), [("dit-3b", torch.bfloat16), ("dit-7b", torch.float32)], ids=["3b", "7b"]
)
def test_the_model_is_that_of_the_numbers_bit_for_bit(
    tmp_path: Path, form: str, part: str, dtype: torch.dtype
) -> None:
    _, write = FORMS[form]
    write(tmp_path / "x", kit.wide_state(part))
    text = torch.randn(kit.TEXT_SHAPE, generator=torch.Generator().manual_seed(1))
    model = load(tmp_path / "x", part, text, dtype)
    with open_checkpoint(tmp_path / "x", part, layouts=kit.wide_layouts) as found:
        # Copies: on a CPU the last bits of a product depend on where its factors begin in memory.
        expanded = {name: tensor.float().clone() for name, tensor in found.items()}
    plain = load_folded(kit.CONFIGS[part], expanded, text, dtype=dtype)
    vid_THWC = torch.randn(2, 4, 6, 33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(vid_THWC), plain(vid_THWC))

    linears = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(linears) > 10
    size = identify(tmp_path / "x", layouts=kit.wide_layouts).quantized
    values, num_bytes, largest = size.values, size.num_bytes, size.largest
    assert values == sum(linear.weight.numel() for linear in linears)
    assert largest == max(linear.weight.numel() for linear in linears)
    kept = [t for linear in linears for t in linear.buffers()]
    assert num_bytes >= sum(t.nbytes for t in kept) > 0.99 * num_bytes
    for block, (numbers, taken) in zip(model.blocks, size.layers, strict=True):
        inside = [module for module in block.modules() if isinstance(module, QuantizedLinear)]
        assert numbers == sum(linear.weight.numel() for linear in inside)
        kept_here = sum(t.nbytes for linear in inside for t in linear.buffers())
        assert taken >= kept_here > 0.99 * taken
    held = sum(t.nbytes for name, t in model.state_dict().items() if name != "text_LD")
    itemsize = dtype.itemsize
    planned = weight_bytes(kit.CONFIGS[part], itemsize=itemsize) - itemsize * values + num_bytes
    assert held <= planned <= 1.05 * held
    assert held < (0.7 if itemsize == 2 else 0.4) * sum(
        t.nbytes for t in plain.state_dict().values()
    )


def test_a_quantised_model_moves_and_comes_back(tmp_path: Path) -> None:
    """As weights that wait in host memory while the VAE runs."""
    kit.write_gguf(tmp_path / "x", kit.wide_state("dit-7b"), "Q4_K")
    text = torch.randn(kit.TEXT_SHAPE, generator=torch.Generator().manual_seed(1))
    model = load(tmp_path / "x", "dit-7b", text, torch.float32)
    vid_THWC = torch.randn(2, 4, 6, 33, generator=torch.Generator().manual_seed(0))
    expected = model(vid_THWC)
    host = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to("meta")
    model.load_state_dict(host, assign=True)
    assert torch.equal(model(vid_THWC), expected)


@EACH_FORM
@pytest.mark.parametrize(
    ("part", "dtype"), [("dit-3b", torch.bfloat16), ("dit-7b", torch.float32)], ids=["3b", "7b"]
)
def test_quantised_layers_that_come_one_by_one_change_no_bit(
    tmp_path: Path, form: str, part: str, dtype: torch.dtype
) -> None:
    """And their bytes on the device are those of the plan."""
    _, write = FORMS[form]
    write(tmp_path / "x", kit.wide_state(part))
    config = kit.CONFIGS[part]
    text = torch.randn(kit.TEXT_SHAPE, generator=torch.Generator().manual_seed(1))
    model = load(tmp_path / "x", part, text, dtype)
    vid_THWC = torch.randn(2, 4, 6, 33, generator=torch.Generator().manual_seed(0))
    expected = model(vid_THWC)
    held = [sum(x.nbytes for x in block.state_dict().values()) for block in model.blocks]
    size = identify(tmp_path / "x", layouts=kit.wide_layouts).quantized
    planned = layer_sizes(config, itemsize=dtype.itemsize, quantized=size.layers)
    assert all(a <= b <= 1.06 * a for a, b in zip(held, planned, strict=True))
    plain = layer_sizes(config, itemsize=dtype.itemsize)
    for count in (1, config.num_layers):
        guest = GuestModule(
            model, torch.device("cpu"), resident=False, streamed=list(model.blocks)[-count:]
        )
        with guest.on_device() as there, torch.inference_mode():
            assert torch.equal(there(vid_THWC), expected)
        less = streamed_weight_bytes(0, planned, count)
        assert less < (0.75 if dtype.itemsize == 2 else 0.5) * streamed_weight_bytes(
            0, plain, count
        )


@pytest.mark.parametrize("form", ["F16", "BF16"])
def test_gguf_of_16_bits(tmp_path: Path, form: str) -> None:
    numbers = kit.write_gguf(tmp_path / "x.gguf", kit.wide_state("dit-3b"), form)
    found = identify(tmp_path / "x.gguf", layouts=kit.wide_layouts)
    assert (found.part, found.format, found.quantized) == ("dit-3b", "gguf", NOTHING_QUANTIZED)
    with open_checkpoint(tmp_path / "x.gguf", "dit-3b", layouts=kit.wide_layouts) as opened:
        assert all(torch.equal(tensor.float(), numbers[name]) for name, tensor in opened.items())


def test_gguf_with_prefix_metadata_and_noted_shapes(tmp_path: Path) -> None:
    state = kit.wide_state("dit-7b")

    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(64)
        writer.add_array("tokens", ["a", "bc"] * 500)
        writer.add_array("numbers", list(range(1000)))
        writer.add_float32("scale", 1.5)
        writer.add_array(f"comfy.gguf.orig_shape.model.diffusion_model.{QKV}", [768, 256])

    numbers = kit.write_gguf(
        tmp_path / "x", state, "Q8_0", prefix="model.diffusion_model.", more=more
    )
    with open_checkpoint(tmp_path / "x", "dit-7b", layouts=kit.wide_layouts) as found:
        assert torch.equal(found[QKV], numbers[QKV])
        found.check_values()


@pytest.mark.parametrize("group", [4, 16, 64, 256])
def test_the_rotation_is_undone(group: int) -> None:
    rotated = torch.randn(5, 512, generator=torch.Generator().manual_seed(0))
    exact = (rotated.double().unflatten(1, (-1, group)) @ kit.hadamard(group)).flatten(1)
    torch.testing.assert_close(unrotated(rotated, group), exact.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(unrotated(rotated[2:3], group), unrotated(rotated, group)[2:3])


def test_a_large_weight_is_expanded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randint(-127, 128, (300, 64), dtype=torch.int8)
    weight = QuantizedWeight(
        form="I8+convrot", shape=(300, 64), data=data, scale=torch.rand(300, 1), group=16
    )
    by_row, by_column = weight * torch.rand(300)[:, None], weight * torch.rand(64)
    whole = [w.expand() for w in (weight, by_row, by_column)]
    monkeypatch.setattr("seedvr2_core.weights.quantized.EXPANDED_AT_ONCE", 1000)
    pieces = [w.expand() for w in (weight, by_row, by_column)]
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert torch.equal(dataclasses.replace(by_row, factor=None).expand(), whole[0])


@pytest.mark.parametrize("form", [*QUANTIZED_DTYPES])
def test_what_expanding_takes_is_what_the_plan_counts(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 Mi values at once; here of a 64th, in two pieces."""
    at_once = EXPANDED_AT_ONCE // 64
    monkeypatch.setattr("seedvr2_core.weights.quantized.EXPANDED_AT_ONCE", at_once)
    columns = 256
    rows = 2 * at_once // columns
    if form in BLOCK_BYTES:
        values, size = BLOCK_BYTES[form]
        data, scale = torch.zeros(rows * columns // values, size, dtype=torch.uint8), None
    else:
        dtype = torch.int8 if form.startswith("I8") else torch.float8_e4m3fn
        data, scale = torch.zeros(rows, columns, dtype=dtype), torch.ones(rows, 1)
    weight = QuantizedWeight(
        form=form,
        shape=(rows, columns),
        data=data,
        scale=scale,
        group=256 if form.endswith("convrot") else 0,
        factor=torch.ones(1, columns),
        dtype=torch.bfloat16,
    )
    with torch.inference_mode(), LiveBytes() as seen:
        expanded = weight.expand()
    assert 0 < seen.peak - expanded.nbytes <= CONSTANTS.expanding / 64


def test_metadata_of_older_files_name_the_format(tmp_path: Path) -> None:
    state = kit.wide_state("dit-7b")
    stored, numbers = kit.scaled_int8(state, group=kit.GROUP)
    stored = {n: t for n, t in stored.items() if not n.endswith(".comfy_quant")}
    layer = '{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 64}'
    layers = ", ".join(
        f'"{n.removesuffix(".weight_scale")}": {layer}' for n in stored if "_scale" in n
    )
    kit.write(tmp_path / "x", stored, {"_quantization_metadata": f'{{"layers": {{{layers}}}}}'})
    with open_checkpoint(tmp_path / "x", "dit-7b", layouts=kit.wide_layouts) as found:
        torch.testing.assert_close(found[QKV], numbers[QKV], rtol=1e-6, atol=1e-7)
