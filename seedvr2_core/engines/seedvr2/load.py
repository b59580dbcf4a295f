"""The engines seedvr2-3b, -7b, -7b-sharp and -1.4b: from checkpoint files to a session."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.config import DIT_1_4B, DIT_3B, DIT_7B, VAE_PRODUCTION, DiTConfig, VAEConfig
from seedvr2_core.dit.fold import FOLD_VERSION, load_folded, load_kept, order_of_reads
from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.engines.seedvr2.sampler import TIMESTEP
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import memory_of
from seedvr2_core.errors import CheckpointError
from seedvr2_core.kernels.devices import kind_of, on_gpu
from seedvr2_core.planning import Plan
from seedvr2_core.vae.model import VideoVAE, build_vae
from seedvr2_core.weights import find_model, open_checkpoint
from seedvr2_core.weights.checkpoint import identify, load_text_embedding
from seedvr2_core.weights.fold_cache import (
    FoldedKey,
    digest_of,
    drop,
    keep_folded_later,
    open_folded,
)
from seedvr2_core.weights.folder import PUBLIC, Catalog
from seedvr2_core.weights.quantized import assign_quantized
from seedvr2_core.weights.table import VAE

LOAD = "load"
"""Name of the beats; they count bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The models that are known and their files; tests use one with small networks."""

    dit_configs: dict[str, DiTConfig]
    """Name of a weights part -> the transformer that it fills."""
    vae_config: VAEConfig
    catalog: Catalog


WORLD = World(
    dit_configs={
        "dit-3b": DIT_3B,
        "dit-7b": DIT_7B,
        "dit-7b-sharp": DIT_7B,
        "dit-1.4b": DIT_1_4B,
    },
    vae_config=VAE_PRODUCTION,
    catalog=PUBLIC,
)


def open_session(
    plan: Plan,
    *,
    device: str,
    beat: Beat,
    weights_dir: Path | None = None,
    world: World = WORLD,
) -> SeedVR2Session:
    """A session of the model that the plan names (see `protocol.EngineModule`).

    Args:
        plan: of the job.
        device: torch device string.
        beat: called with (LOAD, bytes read, bytes of the files) for each tensor that is read, and
            later by the session.
        weights_dir: folder with the three files of the model.
        world: the known models.

    Raises:
        CheckpointError: a file is missing, of another model or damaged.
        PlanError: the plan has no memory plan.
    """
    opener = load(plan, device=device, beat=beat, weights_dir=weights_dir, world=world)
    return opener(plan, beat=beat)


def load(
    plan: Plan,
    *,
    device: str,
    beat: Beat,
    weights_dir: Path | None = None,
    world: World = WORLD,
) -> Callable[..., SeedVR2Session]:
    """The model that the plan names, for one session after another (see `protocol.Opener`).

    The transformer is kept. Each session reads a VAE of its own, which is small and has a state.

    Args, raises: as `open_session`.
    """
    parts = world.catalog.models[plan.engine.name]
    files = find_model(weights_dir, plan.engine.name, catalog=world.catalog, file=plan.weights_file)
    memory = memory_of(plan)
    models = load_models(
        parts,
        files,
        dit_dtype=getattr(torch, memory.dit_dtype),
        device=device,
        world=world,
        beat=beat,
        in_host_memory=memory.streamed_layers > 0,
    )
    vae_file, of_first = files[1], [models]

    def open_one(plan: Plan, *, beat: Beat) -> SeedVR2Session:
        if of_first:  # its beats count on from those of the transformer
            return SeedVR2Session(of_first.pop(), plan, device=device, beat=beat)
        read = _ReadBytes(beat, total=vae_file.stat().st_size)
        build = _vae_builder(vae_file, device=device, world=world, read=read)
        own = Models(build_vae=build, dit=models.dit)
        return SeedVR2Session(own, plan, device=device, beat=beat)

    return open_one


def load_models(
    parts: Sequence[str],
    files: Sequence[Path],
    *,
    dit_dtype: torch.dtype,
    device: str,
    world: World = WORLD,
    beat: Beat = no_beat,
    keep_folded: bool | None = None,
    in_host_memory: bool = False,
) -> Models:
    """Read the transformer now; the VAE is read when it is built.

    Args:
        parts: names of transformer, VAE and text embedding, as the weights table has them.
        files: the file of each part.
        dit_dtype: of the transformer's Linears.
        device: where weights are folded and both networks run.
        world: the known models.
        beat: as for `open_session`; also called when the VAE is built.
        keep_folded: read the folded transformer from beside its checkpoint if it was kept there,
            and else keep it; None: on a GPU.
        in_host_memory: let the transformer's weights lie there, as the device cannot hold them;
            layers then come one by one. They share two places on the device, so a thread that
            reads the weights meanwhile would find others: nothing is written to be kept.

    Raises:
        CheckpointError: a file is not the part that it should be.
    """
    layouts = world.catalog.layouts
    dit_file, vae_file, text_file = files
    read = _ReadBytes(beat, total=sum(file.stat().st_size for file in files))
    text_LX = load_text_embedding(text_file, layouts=layouts)
    config = world.dit_configs[parts[0]]
    keeps = on_gpu(device) if keep_folded is None else keep_folded
    # Written out they would take the room that they are meant to save.
    keeps = keeps and not identify(dit_file, layouts=layouts).quantized.largest
    key = _folded_key(dit_file, text_file, dit_dtype, device) if keeps else None
    place = "cpu" if in_host_memory else device
    dit = _load_kept(key, dit_file, config, len(text_LX), dit_dtype, place, read)
    if dit is None:
        with open_checkpoint(
            dit_file, parts[0], layouts=layouts, device=device, keep_quantized=True
        ) as tensors:
            tensors.expect(order_of_reads(config, tuple(text_LX.shape)))
            counted = read.counted(tensors)
            dit = load_folded(
                config,
                counted,
                text_LX,
                dtype=dit_dtype,
                device=device,
                place=place,
                assign=assign_quantized,
            )
        if key is not None and not in_host_memory:
            keep_folded_later(dit_file.parent, key, dit)

    build = _vae_builder(vae_file, device=device, world=world, read=read)
    return Models(build_vae=build, dit=dit)


def _vae_builder(
    file: Path, *, device: str, world: World, read: "_ReadBytes"
) -> Callable[[torch.dtype], VideoVAE]:
    """Reads the VAE from its file each time it is called."""

    def build(dtype: torch.dtype) -> VideoVAE:
        return _load_vae(file, dtype=dtype, device=device, world=world, read=read)

    return build


def _folded_key(dit_file: Path, text_file: Path, dtype: torch.dtype, device: str) -> FoldedKey:
    kind = kind_of(device)
    return FoldedKey(
        checkpoint=digest_of(dit_file),
        text=digest_of(text_file),
        timestep=TIMESTEP,
        dtype=str(dtype).removeprefix("torch."),
        version=FOLD_VERSION,
        device_kind=kind,
    )


def _load_kept(
    key: FoldedKey | None,
    dit_file: Path,
    config: DiTConfig,
    text_len: int,
    dtype: torch.dtype,
    device: str,
    read: "_ReadBytes",
) -> FoldedDiT | None:
    """The transformer as it was folded before; None where it was not, or its file is damaged."""
    file = open_folded(dit_file.parent, key) if key is not None else None
    if file is None:
        return None

    def counted() -> Iterator[tuple[str, Tensor]]:
        share = dit_file.stat().st_size / file.num_bytes
        for name, tensor in file.tensors(pin_memory=on_gpu(device)):
            read.add(round(share * tensor.nbytes))
            yield name, tensor

    try:
        return load_kept(config, counted(), text_len, dtype=dtype, device=device)
    except CheckpointError as error:
        drop(file.path, error)
        return None


def _load_vae(
    file: Path, *, dtype: torch.dtype, device: str, world: World, read: "_ReadBytes"
) -> VideoVAE:
    """Read the VAE; it is folded in float32 and then rounded once."""
    with open_checkpoint(
        file, VAE, layouts=world.catalog.layouts, device=device, dtype=torch.float32
    ) as tensors:
        tensors.expect(tensors)
        weights = dict(read.counted(tensors))
    return build_vae(world.vae_config, weights, dtype=dtype, device=device)


class _ReadBytes:
    """Beats for each tensor that is read, so that a slow disk does not look like a hang."""

    def __init__(self, beat: Beat, *, total: int) -> None:
        self._beat, self._total, self._done = beat, total, 0

    def counted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same tensors; reading one of them beats."""
        return _CountedTensors(tensors, self)

    def add(self, num_bytes: int) -> None:
        """Beat after so many more bytes; what is read twice does not exceed the total."""
        self._done = min(self._total, self._done + num_bytes)
        self._beat(LOAD, self._done, self._total)


class _CountedTensors(Mapping[str, Tensor]):
    """Tensors by name, read on access."""

    def __init__(self, tensors: Mapping[str, Tensor], read: _ReadBytes) -> None:
        self._tensors, self._read = tensors, read

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._read.add(tensor.nbytes)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
