"""What parent and child say: every message survives its line, and nothing else passes for one."""

import dataclasses
import io
import json
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, get_args, get_origin

import pytest

from seedvr2_core.child import progress, protocol
from seedvr2_core.child.messages.life import Prepare, Rest
from seedvr2_core.child.operations import OPERATIONS
from seedvr2_core.child.protocol import (
    EVENTS,
    REQUESTS,
    Event,
    Heartbeat,
    Idle,
    Joined,
    Restore,
    Stop,
    decode_event,
    decode_request,
    encode_event,
    encode_request,
)
from seedvr2_core.errors import ChildFailedError

TEXTS = (
    "",
    "a b",
    'quote " and \\',
    "line\nbreak",
    "\u00fc\u4e2d\u6587",
    "\udc80 of a file name",
    "{}",
)

EACH_REQUEST = pytest.mark.parametrize("kind", REQUESTS.values(), ids=REQUESTS.keys())
EACH_EVENT = pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS.keys())


def made_up(kind: Any, rng: random.Random) -> Any:
    """Any value of a field's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return made_up(rng.choice(inner), rng)
    if origin is tuple:
        return tuple(made_up(inner[0], rng) for _ in range(rng.randrange(3)))
    if origin is not None and issubclass(origin, Mapping):
        return {made_up(str, rng): made_up(inner[1], rng) for _ in range(rng.randrange(3))}
    if dataclasses.is_dataclass(kind):
        return kind(**{field.name: made_up(field.type, rng) for field in dataclasses.fields(kind)})
    some = {
        str: lambda: rng.choice((*TEXTS, "".join(rng.choices(string.printable, k=20)))),
        Path: lambda: Path("/x") / rng.choice([text for text in TEXTS if text]),
        bool: lambda: rng.random() < 0.5,
        int: lambda: rng.randrange(-5, 2**40),
        float: lambda: rng.choice((rng.uniform(-1e9, 1e9), float(rng.randrange(100)))),
        type(None): lambda: None,
    }
    return some[kind]()


@pytest.mark.parametrize("seed", range(20))
@EACH_REQUEST
def test_every_request_survives_its_line(kind: Any, seed: int) -> None:
    request = made_up(kind, random.Random(seed))
    line = encode_request(request)
    assert "\n" not in line
    assert line.isascii()
    assert decode_request(line + "\n") == request


@pytest.mark.parametrize("seed", range(20))
@EACH_EVENT
def test_every_event_survives_its_line(kind: Any, seed: int) -> None:
    event = made_up(kind, random.Random(seed))
    line = encode_event(event)
    assert "\n" not in line
    assert line.isascii()
    decoded = decode_event(line + "\n")
    assert (type(decoded), decoded) == (kind, event)


@EACH_EVENT
def test_no_part_of_an_event_is_an_event(kind: Any) -> None:
    """A child may die anywhere in its line."""
    line = encode_event(made_up(kind, random.Random(1)))
    for length in range(len(line)):
        assert decode_event(line[:length]) is None


@pytest.mark.parametrize(
    "line",
    [
        *("", "\n", "noise", "[1, 2]", "null", '"ready"', "7", '{"no": 1}', '{"event": 3}'),
        *("{" * 10, "[" * 900_000, '{"event":' * 100_000, '{"event": ' + "9" * 5000 + "}"),
    ],
    ids=range(13),
)
def test_what_is_no_event_is_log_text(line: str) -> None:
    assert decode_event(line) is None
    with pytest.raises(ChildFailedError, match="a line that is no request"):
        decode_request(line)


def harmed(line: str, harm: Callable[[dict[str, Any]], object]) -> str:
    told = json.loads(line)
    harm(told)
    return json.dumps(told)


@EACH_EVENT
def test_events_with_other_fields_are_refused(kind: Any) -> None:
    event = made_up(kind, random.Random(2))
    line = encode_event(event)
    with pytest.raises(ChildFailedError, match=r"has the fields .*'more'.*, expected"):
        decode_event(harmed(line, lambda told: told.update(more=1)))
    for field in dataclasses.fields(kind):
        with pytest.raises(ChildFailedError, match=f"expected .*'{field.name}'"):
            decode_event(harmed(line, lambda told, name=field.name: told.pop(name)))
        with pytest.raises(ChildFailedError, match=rf"\.{field.name} between parent and child is"):
            decode_event(harmed(line, lambda told, name=field.name: told.update({name: [True]})))


def test_what_neither_side_knows_is_named() -> None:
    with pytest.raises(ChildFailedError, match=r"unknown message 'echo' .* of: .*probe"):
        decode_request('{"op": "echo"}')
    with pytest.raises(ChildFailedError, match=r"unknown message 'probe' .* probed, "):
        decode_event('{"event": "probe"}')
    with pytest.raises(ChildFailedError, match=r"field restore\.segments between .* is 'x'"):
        decode_request(
            harmed(
                encode_request(made_up(Restore, random.Random(3))),
                lambda told: told.update(segments=["x"]),
            )
        )


def test_the_child_can_do_what_can_be_asked() -> None:
    assert {*OPERATIONS, Prepare, Rest, Stop} == set(REQUESTS.values())


@EACH_REQUEST
def test_a_request_knows_its_answer(kind: Any) -> None:
    request = made_up(kind, random.Random(4))
    answers = [
        event
        for event in EVENTS.values()
        if request.is_answered_by(made_up(event, random.Random()))
    ]
    assert answers == ([*EVENTS.values()] if kind in (Prepare, Stop) else [kind.answer])


def test_heartbeats_are_thinned_and_other_events_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    stream = io.StringIO()
    emitter = progress.Emitter(stream)
    events: list[Event] = []
    for step in range(1, 11):
        for phase in ("decode", "encode"):
            emitter.beat(phase, step, 10)
            if step % 2 or step == 10:  # every second one comes too soon, and the end does not
                events.append(Heartbeat(phase=phase, done=step, total=10))
            if step == 10:
                emitter.beat(phase, step, 10)  # nothing new
        emitter.emit(Joined(notes=()))
        events.append(Joined(notes=()))
        now += protocol.BEAT_SECONDS * 0.75
    emitter.emit(Idle())
    lines = stream.getvalue().splitlines()
    assert [decode_event(line) for line in lines] == [*events, Idle()]
