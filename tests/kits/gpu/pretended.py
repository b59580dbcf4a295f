"""A GPU that is pretended: the code that runs on one runs here, with real numbers on the CPU.

Inside `pretended()`, torch has a device "cuda:0". Its tensors say so, hold their numbers in plain
tensors of the CPU, and refuse to meet those as they would on a GPU. Streams, events and page-locked
memory exist as far as our code uses them. Everything is calculated at once, in program order; a
`Ledger` tells what a GPU might have done in another order. Kernels of our own run by their torch
references. Nothing here says how fast or how exact a GPU is.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

from seedvr2_core.dit import sdpa
from seedvr2_core.kernels.kernel import Kernel
from tests.kits.gpu.ledger import HOST, Ledger, place
from tests.kits.gpu.streams import FREE, Stream, Streams, stand_ins

DEVICE = torch.device("cuda", 0)
_SYNCHRONISING = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero")
_SYNCHRONISING += ("equal", "allclose", "__contains__", "unique", "masked_select")
_INDEXING = ("__getitem__", "__setitem__")
_ALERTS = ("cumsum", "cumprod", "histc", "kthvalue", "median", "put_", "scatter_reduce", "bincount")
"""What torch refuses on a GPU where all has to be deterministic."""


class GpuTensor(Tensor):
    """A tensor of the pretended GPU."""

    inner: Tensor
    gpu: "Gpu"

    @staticmethod
    def __new__(cls, inner: Tensor, gpu: "Gpu") -> "GpuTensor":
        """Of the same form; what is asked of it is asked of `inner`."""
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device="meta"
        )
        made.inner, made.gpu = inner, gpu
        return made

    def __init__(self, inner: Tensor, gpu: "Gpu") -> None:
        """See `__new__`."""

    def record_stream(self, stream: Stream) -> None:
        """See `Ledger.record`; torch's own takes its own streams alone."""
        with torch._C.DisableTorchFunction():
            self.gpu.ledger.record(self.inner, stream)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            given = next(x for x in tree_iter((args, kwargs)) if isinstance(x, GpuTensor))
            return given.gpu.call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called past the pretended GPU at {place()}")


class Gpu(TorchFunctionMode):
    """Takes all calls of torch in its block."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.streams = Streams(ledger)

    @property
    def stream(self) -> Stream:
        """The current one of the thread."""
        return self.streams.current

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do what torch was asked for, and keep account of it."""
        name = getattr(func, "__name__", "")
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, GpuTensor)]
        with self.ledger.lock:
            if name in ("__get__", "__set__"):
                return self._property(func, name, args)
            if name in ("to", "cpu", "cuda"):
                return self._move(func, name, args, kwargs)
            if name != "_parse_to" and _is_gpu(kwargs.get("device")):
                made = self._made(func(*_inner(args), **{**kwargs, "device": "cpu"}))
                if name in ("tensor", "as_tensor", "asarray", "new_tensor"):
                    self.ledger.stop(self.stream)  # from the host's pages, which are not locked
                return made
            if not ours or "device" in kwargs:
                return self._on_host(func, name, tensors, _inner(args), kwargs)
            if name == "copy_":
                return self._copy(*args, **kwargs)
            return self._launch(func, name, tensors, args, kwargs)

    def _property(self, func: Any, name: str, args: Sequence[Any]) -> Any:
        x = args[0]
        if not isinstance(x, GpuTensor):
            return func(*args)
        asked = func.__self__.__name__
        if name == "__set__":
            assert asked == "data", asked
            x.inner = args[1].inner
            return None
        if asked in ("device", "is_cuda", "is_cpu", "is_meta"):
            return DEVICE if asked == "device" else asked == "is_cuda"
        return self._made(func(x.inner))

    def _launch(
        self,
        func: Callable[..., Any],
        name: str,
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """An operation on the current stream, or a question that needs none."""
        if name in ("is_pinned", "_has_compatible_shallow_copy_type"):
            return name != "is_pinned" and all(isinstance(x, GpuTensor) for x in args[:2])
        _refuse(name, tensors)
        who, ledger = self.stream, self.ledger
        ledger.tick(who)
        out = _calculated(func, name, _inner(args), _inner(kwargs))
        written = [tensors[0]] if _writes_first(name) else []
        written += [x for x in tree_iter(kwargs.get("out")) if isinstance(x, GpuTensor)]
        if _is_new(out, _inner(tensors)) or written or name in _SYNCHRONISING:
            for x in tensors:
                if isinstance(x, GpuTensor) and not any(x is y for y in written):
                    ledger.touch(who, x.inner, writes=False)
            for x in written:
                ledger.touch(who, x.inner, writes=True)
        if name in _SYNCHRONISING or _waits_for_indices(name, tensors[1:]):
            ledger.stop(who)
        return self._made(out, among=tensors)

    def _made(self, out: Any, among: Sequence[Tensor] = ()) -> Any:
        """Results of the current stream; what was given is given back as it was."""
        known = {id(x.inner): x for x in among if isinstance(x, GpuTensor)}
        self.ledger.tick(self.stream)

        def wrapped(x: Tensor) -> Tensor:
            if id(x) in known or isinstance(x, GpuTensor):
                return known.get(id(x), x)
            if self.ledger.block(x) is None:
                self.ledger.add(x, self.stream)
                self.ledger.touch(self.stream, x, writes=True)
            return GpuTensor(x, self)

        return tree_map_only(Tensor, wrapped, out)

    def _on_host(
        self,
        func: Callable[..., Any],
        name: str,
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """What the host does; page-locked memory is watched."""
        if name in ("is_pinned", "pin_memory"):
            pinned = self.ledger.block(args[0]) is not None
            return pinned if name == "is_pinned" else self._pinned(args[0].clone())
        out = func(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})
        if kwargs.get("pin_memory"):
            return self._pinned(out)
        watched = [x for x in tensors if self.ledger.block(x) is not None]
        if watched and not isinstance(watched[0], GpuTensor):
            self.ledger.tick(HOST)
            writes = _writes_first(name)
            reads = _is_new(out, watched) or name in _SYNCHRONISING
            for x in watched if writes or reads else []:
                self.ledger.touch(HOST, x, writes=writes and x is tensors[0])
        return out

    def _pinned(self, x: Tensor) -> Tensor:
        """The tensor; its memory counts as page-locked."""
        self.ledger.add(x, HOST)
        return x

    def shown(self, x: Tensor) -> None:
        """The host gets at a tensor's memory past torch, to read or to write."""
        with self.ledger.lock:
            self.ledger.tick(HOST)
            self.ledger.touch(HOST, x, writes=True)

    def _move(
        self, func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """To another device, another dtype, or both."""
        x, target = args[0], _target(name, args, kwargs)
        is_ours = isinstance(x, GpuTensor)
        if target is None:
            target = DEVICE if is_ours else x.device
        args = [_on_cpu(value) for value in _inner(args)]
        kwargs = {key: _on_cpu(value) for key, value in kwargs.items()}
        if target.type == "meta" or (not is_ours and not _is_gpu(target)):
            return self._on_host(func, name, [x], [args[0], *args[1:]], kwargs)
        waits = not (kwargs.get("non_blocking") or True in args[2:3])
        out = Tensor.to(args[0], "cpu") if name != "to" else func(*args, **kwargs)
        if is_ours and _is_gpu(target) and out is x.inner:
            return x
        if out is args[0]:
            out = out.clone()  # another device: always a copy
        self.ledger.tick(self.stream)
        self.ledger.touch(self.stream, args[0], writes=False)
        if _is_gpu(target):
            made = self._made(out)
            if not is_ours and (waits or self.ledger.block(args[0]) is None):
                self.ledger.stop(self.stream)
            return made
        self.ledger.stop(self.stream)
        return out

    def _copy(self, to: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
        to_inner, x_inner = _inner([to, x])
        to_inner.copy_(x_inner)
        self.ledger.tick(self.stream)
        self.ledger.touch(self.stream, x_inner, writes=False)
        self.ledger.touch(self.stream, to_inner, writes=True)
        on_host = [y for y in (to, x) if not isinstance(y, GpuTensor)]
        late = non_blocking and all(self.ledger.block(y) is not None for y in on_host)
        if on_host and on_host[0].dim() and not late:
            self.ledger.stop(self.stream)
        return to


def _refuse(name: str, tensors: Sequence[Tensor]) -> None:
    """What a GPU cannot do."""
    if name == "pin_memory":
        raise RuntimeError(f"a tensor of {DEVICE} has no pages of the host")
    if name in _ALERTS and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{name} does not have a deterministic implementation")
    for x in tensors:
        # Indices may lie on the host, and so may single numbers.
        by_index = name in _INDEXING and x is not tensors[0]
        if not isinstance(x, GpuTensor) and x.dim() and not by_index:
            raise RuntimeError(f"tensors of {DEVICE} and {x.device} meet in {name}")


def _waits_for_indices(name: str, others: Sequence[Tensor]) -> bool:
    """Whether indices come from the host, or are masks, whose elements are counted first."""
    return name in _INDEXING and any(
        x.dtype == torch.bool or not isinstance(x, GpuTensor) for x in others if x.dim()
    )


def _calculated(func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    if name == "_addmm_activation":  # whose GELU has its tanh form on a GPU alone
        return F.gelu(torch.addmm(*args), approximate="tanh")
    return func(*args, **kwargs)


def _is_new(out: Any, given: Sequence[Tensor]) -> bool:
    """Whether any result has memory of its own, as no view of what was given has."""
    known = {x.untyped_storage()._cdata for x in given}
    made = (x for x in tree_iter(out) if isinstance(x, Tensor))
    return any(x.untyped_storage()._cdata not in known for x in made)


def _writes_first(name: str) -> bool:
    if name.endswith("__"):
        return name == "__setitem__" or name[2:-2] in ("iadd", "isub", "imul", "itruediv")
    return name.endswith("_") and name != "requires_grad_"


def _inner(values: Any) -> Any:
    return tree_map_only(GpuTensor, lambda x: x.inner, values)


def _is_gpu(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == DEVICE.type


def _on_cpu(value: Any) -> Any:
    return "cpu" if _is_gpu(value) else value


def _target(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    if name != "to":
        return torch.device("cpu") if name == "cpu" else DEVICE
    for value in (kwargs.get("device"), *args[1:]):
        if isinstance(value, GpuTensor):
            return DEVICE
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, str | torch.device):
            return torch.device(value)
    return None


@contextmanager
def pretended(*, without: str = "", free: int = FREE) -> Iterator[Ledger]:
    """A block in which torch has a GPU.

    Args:
        without: a way of waiting that is left out, as `Ledger.waits` names it.
        free: bytes of its memory that it says are free.
    """
    ledger = Ledger(without=without)
    gpu = Gpu(ledger)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stand_ins(gpu.streams, free=free).items():
            patch.setattr(torch.cuda, name, value)
        stats = {"allocated_bytes.current": 0}
        patch.setattr(torch.cuda.memory, "host_memory_stats", lambda: stats)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(threading.Thread, "run", _in_threads(gpu, threading.Thread.run))
        patch.setattr(Tensor, "numpy", _shown(gpu, Tensor.numpy))
        patch.setattr(Kernel, "in_triton", property(lambda kernel: kernel.reference))
        for name in ("_through_cudnn", "_through_flash"):
            patch.setattr(sdpa, name, F.scaled_dot_product_attention)
        with gpu:
            yield ledger


class _Generator(torch.Generator):
    """Of the CPU, whatever the device."""

    def __new__(cls, device: object = None) -> "_Generator":
        return super().__new__(cls)


def _in_threads(gpu: Gpu, run: Callable[..., None]) -> Callable[..., None]:
    """Threads that begin in the block have the GPU, too."""

    def wrapped(thread: threading.Thread) -> None:
        with gpu:
            run(thread)

    return wrapped


def _shown(gpu: Gpu, numpy: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(numpy)
    def wrapped(x: Tensor, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            if isinstance(x, GpuTensor):
                raise TypeError(f"{DEVICE} has no arrays; copy the tensor to the host first")
            gpu.shown(x)
            return numpy(x, **kwargs)

    return wrapped
