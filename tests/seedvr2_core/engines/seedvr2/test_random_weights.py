"""The weight recipe: the same numbers everywhere."""

import numpy as np
import pytest
import torch

from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1

SHAPES = {
    "b.weight": (3, 4),
    "a.bias": (5,),
    "c.attn_shift": (2,),
    "d.attn_scale": (2,),
    "e.attn_gate": (2,),
    "f.weight": (6,),
    "blocks.0.attn.rope.rope.freqs": (7,),
}


def test_names_are_visited_in_order_and_scaled_by_kind() -> None:
    tensors = pcg64_v1(SHAPES, 9)
    rng = np.random.Generator(np.random.PCG64(9))
    z = {
        n: torch.from_numpy(rng.standard_normal(s, dtype=np.float32))
        for n, s in [
            ("a.bias", 5),
            ("b.weight", (3, 4)),
            ("c.attn_shift", 2),
            ("d.attn_scale", 2),
            ("e.attn_gate", 2),
            ("f.weight", 6),
        ]
    }
    assert set(tensors) == set(z)
    assert torch.equal(tensors["a.bias"], 0.1 * z["a.bias"])
    assert torch.equal(tensors["b.weight"], z["b.weight"] / 2)
    assert torch.equal(tensors["c.attn_shift"], 0.3 * z["c.attn_shift"])
    assert torch.equal(tensors["d.attn_scale"], 1 + 0.2 * z["d.attn_scale"])
    assert torch.equal(tensors["e.attn_gate"], 0.5 + 0.3 * z["e.attn_gate"])
    assert torch.equal(tensors["f.weight"], 1 + 0.2 * z["f.weight"])


def test_order_of_the_mapping_does_not_matter() -> None:
    backwards = dict(reversed(SHAPES.items()))
    first, second = pcg64_v1(SHAPES, 1), pcg64_v1(backwards, 1)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k\.weight has shape \(2, 2, 2\)"):
        pcg64_v1({"k.weight": (2, 2, 2)}, 1)
