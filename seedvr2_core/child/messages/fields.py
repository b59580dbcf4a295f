"""What a message is, and how its JSON object becomes one: every field is there, of its own type."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar, get_args, get_origin

from seedvr2_core.errors import ChildFailedError


class Event:
    """Something the child tells the parent."""

    __slots__ = ()


E = TypeVar("E", bound=Event)


class Request(Generic[E]):
    """Something the parent wants the child to do; the child answers with an event of type `E`."""

    __slots__ = ()

    answer: ClassVar[type[Event]]
    """The event that says the work is done."""
    phase: ClassVar[str] = ""
    """What a job is shown to do from when the request is sent; "": it is no work of a job. The
    child's first heartbeat has this phase: it comes before anything that takes a while to load."""

    def is_answered_by(self, event: Event) -> TypeGuard[E]:
        """Whether this event says that the request has been carried out."""
        return isinstance(event, self.answer)


def object_in(line: str) -> dict[str, object] | None:
    """The JSON object of a line, or None if it holds anything else."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):  # the second: a million brackets
        return None
    return told if isinstance(told, dict) else None


def message_of(kinds: Mapping[str, type[Any]], name: str, told: dict[str, object]) -> Any:
    """A message from its name and its other fields.

    Raises:
        ChildFailedError: the name is none of `kinds`, or the fields are not its own.
    """
    if name not in kinds:
        raise ChildFailedError(
            f"unknown message {name!r} between parent and child; expected one of: "
            f"{', '.join(kinds)}. Both must be of the same version: install again"
        )
    return _record(kinds[name], told, name)


def _record(kind: Any, told: dict[str, object], where: str) -> Any:
    """A dataclass from its JSON object.

    Args:
        kind: the dataclass.
        told: what the object holds.
        where: the message or field, for errors.

    Raises:
        ChildFailedError: a field is missing, unknown, or of another type.
    """
    known = {field.name: field.type for field in fields(kind)}
    if told.keys() != known.keys():
        raise ChildFailedError(
            f"message {where!r} between parent and child has the fields {sorted(told)}, expected "
            f"{sorted(known)}. Both must be of the same version: install again"
        )
    return kind(**{name: _value(known[name], told[name], f"{where}.{name}") for name in known})


def _value(kind: Any, told: object, where: str) -> Any:
    """A field from its JSON value, as the field's type has it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if told is None else _value(inner[0], told, where)
    if origin is tuple and isinstance(told, list):
        return tuple(_value(inner[0], item, where) for item in told)
    if origin is not None and issubclass(origin, Mapping) and isinstance(told, dict):
        return {key: _value(inner[1], item, where) for key, item in told.items()}
    if is_dataclass(kind) and isinstance(told, dict):
        return _record(kind, told, where)
    if kind is Path and isinstance(told, str):
        return Path(told)
    if kind is float and type(told) is int:
        return float(told)
    if type(told) is kind:
        return told
    raise ChildFailedError(f"field {where} between parent and child is {told!r}, expected {kind}")
