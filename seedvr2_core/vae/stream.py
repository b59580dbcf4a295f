"""What a slice leaves for the next: a tree of dataclasses that holds tensors."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(slots=True)
class StreamState:
    """Base of all states: a tree of dataclasses and lists whose leaves are tensors or numbers."""

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor held, with its path; the parts are named as the modules they belong to."""
        for field in dataclasses.fields(self):
            yield from _named_tensors(field.name, getattr(self, field.name))

    def num_bytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.nbytes for _, tensor in self.named_tensors())

    def clone(self) -> Self:
        """An independent copy (tensors copied, layout kept)."""
        return self.mapped(Tensor.clone)

    def to(self, device: torch.device | str) -> Self:
        """The state with its tensors on another device; tensors already there are shared."""
        return self.mapped(lambda tensor: tensor.to(device))

    def packed(self, places: Iterator[Tensor] | None = None) -> Self:
        """The same with as few bytes as possible: what later frames read and nothing else.

        Args:
            places: where to put the tensors, made for those of `packed_like`; None: what is packed
                already is shared, and the rest is copied.
        """
        changes = {
            field.name: _pack(getattr(self, field.name), places)
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **changes)

    def packed_like(self) -> Iterator[Tensor]:
        """Tensors without data ("meta") like those that `packed` has, in order."""
        for part in self._parts():
            yield from part.packed_like()

    def use_rings(self, seen: int) -> None:
        """Let all convolutions keep their frames in rings (ring.py); before the first frame.

        Args:
            seen: number in the shot of the frame that comes next.
        """
        for part in self._parts():
            part.use_rings(seen)

    def use_store(self, store: Any) -> None:
        """Keep all caches in host memory by a `CacheStore` (store.py); before the first frame."""
        for part in self._parts():
            part.use_store(store)

    def use_bands(self) -> None:
        """Let all convolutions work large frames in bands of rows (bands/rows.py); before the
        first frame."""
        for part in self._parts():
            part.use_bands()

    def settle(self) -> None:
        """At the end of a phase: nothing is on its way, and the device's memory is given back."""
        for part in self._parts():
            part.settle()

    def _parts(self) -> Iterator["StreamState"]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, StreamState):
                    yield part

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The state with a function of each tensor in its place, in `named_tensors`' order."""
        changes = {
            field.name: _map_value(getattr(self, field.name), function)
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **changes)


def _named_tensors(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, StreamState):
        for name, tensor in value.named_tensors():
            yield f"{path}.{name}", tensor
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _named_tensors(f"{path}.{index}", item)


def _map_value(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, StreamState):
        return value.mapped(function)
    if isinstance(value, list):
        return [_map_value(item, function) for item in value]
    return value


def _pack(value: Any, places: Iterator[Tensor] | None) -> Any:
    if isinstance(value, StreamState):
        return value.packed(places)
    return [_pack(item, places) for item in value] if isinstance(value, list) else value
