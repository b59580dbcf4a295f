"""What `check_dit.py` asks of an implementation, answered by the product's own code.

Rules the product does not use come from reference_rules.py. The interface is described in the
docstring of the checker; all tensors are CPU float32.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seedvr2_core import frames
from seedvr2_core.config import DiTConfig, swiglu_hidden
from seedvr2_core.dit import layers, window
from seedvr2_core.dit import modulation as modulations
from seedvr2_core.dit import rope as ropes
from seedvr2_core.dit.model import DiT, DiTTables, load_plain, make_tables
from seedvr2_core.engines.seedvr2 import color as product_color
from seedvr2_core.engines.seedvr2 import sampler


def _load_rules() -> Any:
    """reference_rules.py beside this file; tests are no package."""
    name = "golden_reference_rules"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("reference_rules.py")
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


rules = _load_rules()

sampling_timesteps = rules.sampling_timesteps
timestep_shift = rules.timestep_shift
euler_step = rules.euler_step
cfg = rules.guided
preprocess = rules.preprocess
resize_rule = rules.resize_rule
pad_frames = rules.pad_frames
window_list = rules.window_list
stitch = rules.stitch
blend_hann = rules.blend_hann
dimensions = rules.dimensions
eta = rules.eta
stall_timeout = rules.stall_timeout
gpu = rules.gpu
patchify = layers.patchify


def dit_config(config: dict[str, Any]) -> DiTConfig:
    """Our config from the checker's."""
    swiglu = config["mlp_type"] == "swiglu"
    width, expand = config["vid_dim"], config["expand_ratio"]
    return DiTConfig(
        width=width,
        num_heads=config["heads"],
        head_dim=config["head_dim"],
        num_separate_layers=config["mm_layers"],
        shifted=tuple("pswin" in method for method in config["window_method"]),
        mlp="swiglu" if swiglu else "gelu",
        mlp_hidden=swiglu_hidden(width, expand=expand) if swiglu else width * expand,
        rope="lang" if config["model"] == "3b" else "pixel",
        output_modulation=config["model"] == "3b",
        window_counts=tuple(config["window"]),
        latent_channels=config["vid_out_channels"],
        condition_channels=config["vid_in_channels"] - config["vid_out_channels"],
        text_dim=config["txt_in_dim"],
        norm_eps=config["norm_eps"],
    )


def build_dit(config: dict[str, Any], state_dict: dict[str, Tensor]) -> DiT:
    return load_plain(dit_config(config), state_dict)


class _Trace:
    """Activations by the reference's names, in the reference's token order."""

    def __init__(self, model: DiT, tables: DiTTables) -> None:
        self.seen: dict[str, Tensor] = {}
        self._tables = tables
        self._handles = [
            model.vid_in.register_forward_hook(self._video("vid_in", model.config.shifted[0])),
            model.txt_in.register_forward_hook(self._keep("txt_in")),
            model.emb_in.register_forward_hook(self._keep("emb_in")),
        ]
        blocks: Any = model.blocks
        for i, (block, shifted) in enumerate(zip(blocks, model.config.shifted, strict=True)):
            self._handles.append(block.register_forward_hook(self._block(i, shifted)))
            self._handles.append(
                block.attn.register_forward_hook(self._video(f"blocks.{i}.attn.vid", shifted))
            )
            if i < model.config.num_layers - 1:
                text_out = block.attn.proj_out.of("txt")
                self._handles.append(
                    text_out.register_forward_hook(self._keep(f"blocks.{i}.attn.txt"))
                )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, args: object, out: Tensor) -> None:
            self.seen[name] = out.clone()

        return hook

    def _video(self, name: str, shifted: bool) -> Any:
        def hook(_: nn.Module, args: object, out: Any) -> None:
            rows = out[0] if isinstance(out, tuple) else out
            self.seen[name] = rows[self._tables.place_N[shifted]].clone()

        return hook

    def _block(self, layer: int, shifted: bool) -> Any:
        def hook(block: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.seen[f"blocks.{layer}.vid"] = args[0][self._tables.place_N[shifted]].clone()
            if not block.is_last:  # nothing reads the text after the last block
                self.seen[f"blocks.{layer}.txt"] = out.clone()

        return hook


def run_dit(
    model: DiT, vid: Tensor, txt: Tensor, timestep: float, trace: list[str]
) -> dict[str, Tensor]:
    tables = make_tables(
        model.config, (vid.shape[0], vid.shape[1], vid.shape[2]), txt.shape[0], chunk_tokens=None
    )
    recorder = _Trace(model, tables)
    out = model(vid, txt, timestep, tables=tables)
    recorder.remove()
    return {"vid_sample": out} | {n: recorder.seen[n] for n in trace if n in recorder.seen}


def condition(cond_latent: Tensor, aug_noise: Tensor, aug_t: float) -> Tensor:
    return sampler.condition(rules.noised_latent(cond_latent, aug_noise, aug_t))


def one_step(model: DiT, noise: Tensor, condition: Tensor, txt: Tensor) -> Tensor:
    def velocity(vid_THWC: Tensor) -> Tensor:
        return model(vid_THWC, txt, sampler.TIMESTEP)

    return sampler.one_step(velocity, noise, condition)


def windows(size: tuple[int, int, int], shifted: bool) -> list[window.Bounds]:
    return window.windows(size, (4, 3, 3), shifted=shifted)


def _rope_kind(model_kind: str) -> ropes.Rope:
    return "lang" if model_kind == "3b" else "pixel"


def rope(
    model_kind: str, head_dim: int, window: list[int], txt_len: int | None, q: Tensor, kind: str
) -> Tensor:
    if kind == "txt":
        angles = ropes.text_angles(head_dim, q.shape[0])
    else:
        shape = (window[0], window[1], window[2])
        angles = ropes.video_angles(_rope_kind(model_kind), head_dim, shape, txt_len or 0)
    return ropes.rotate_(q.clone(), ropes.rotation(angles))


def rope_angles(
    model_kind: str, head_dim: int, window: list[int], txt_len: int | None
) -> dict[str, Tensor]:
    kind = _rope_kind(model_kind)
    shape = (window[0], window[1], window[2])
    angles = {
        "freqs": ropes.frequencies(kind, head_dim),
        "vid": ropes.video_angles(kind, head_dim, shape, txt_len or 0),
    }
    if kind == "lang":
        angles["txt"] = ropes.text_angles(head_dim, txt_len or 0)
    return angles


def time_embed(timesteps: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    embed = layers.TimeEmbedding.__new__(layers.TimeEmbedding)
    nn.Module.__init__(embed)
    for name in ("proj_in", "proj_hid", "proj_out"):
        out_features, in_features = weights[f"{name}.weight"].shape
        embed.add_module(name, nn.Linear(in_features, out_features))
    embed.load_state_dict(weights)
    sinusoid = layers.sinusoids(timesteps, embed.proj_in.in_features)
    return {"sinusoid": sinusoid, "emb": embed(timesteps)}


def modulation(emb: Tensor, x: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    width = x.shape[-1]
    ada, final = modulations.BlockModulation(width), modulations.OutputModulation(width)
    ada.load_state_dict({n[4:]: w for n, w in weights.items() if n.startswith("ada.")})
    final.load_state_dict({n[4:]: w for n, w in weights.items() if n.startswith("out.")})
    attn, mlp = ada(emb[0], "attn"), ada(emb[0], "mlp")
    shift, scale = final(emb[0])
    return {
        "attn_in": modulations.modulate_(x.clone(), attn),
        "attn_out": modulations.gated(x, attn),
        "mlp_in": modulations.modulate_(x.clone(), mlp),
        "mlp_out": modulations.gated(x, mlp),
        "final_in": x * scale + shift,
    }


def mlp(kind: str, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    hidden, width = weights["proj_in.weight"].shape
    part: nn.Module
    if kind == "swiglu":
        part = layers.SwiGLU(width, hidden, bias=False, dtype=torch.float32)
    else:
        part = layers.GeluMLP(width, hidden, dtype=torch.float32)
    part.load_state_dict(weights)
    return part(x)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return layers.rms_norm(x, weight, eps=eps)


def unpatchify(tokens: Tensor, latent_shape: list[int]) -> Tensor:
    return layers.unpatchify(tokens, (latent_shape[0], latent_shape[1], latent_shape[2]))


def endpoint(x_t: Tensor, pred: Tensor, t: float) -> Tensor:
    return sampler.predict_x0(x_t, pred, timestep=t)


def color(method: str, content: Tensor, style: Tensor) -> Tensor:
    if method in ("wavelet_numz", "hsv", "wavelet_adaptive"):
        return getattr(rules, method)(content, style)
    # The reference's "wavelet" is the product's "wavelet_rgb".
    ours: dict[str, product_color.ColorMethod] = {
        "wavelet": "wavelet_rgb",
        "adain": "adain",
        "lab": "lab",
    }
    return product_color.transfer_color(content, style, ours[method])


def to_uint8(x: Tensor) -> Tensor:
    pictures = [torch.from_numpy(frames.tensor_to_rgb(picture, "uint8")) for picture in x]
    return torch.stack(pictures)
