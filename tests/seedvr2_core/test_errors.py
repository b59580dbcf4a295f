"""The exception tree: as it is drawn, told apart by name, and clear about what a retry can do."""

import inspect
import json
import re

import pytest

from seedvr2_core import errors
from seedvr2_core.errors import SeedVR2Error

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SeedVR2Error)
]
EACH_CLASS = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def parents_in_the_drawing() -> dict[str, str]:
    """Class -> the class it hangs from in the module's docstring."""
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (inspect.getdoc(errors) or "").splitlines():
        name = line.lstrip("│├└─ ").split(" ")[0]
        if not name.endswith("Error") or line[:1] not in "S│├└ ":
            continue
        depth = len(line) - len(line.lstrip("│├└─ "))
        above[depth] = name
        if depth:
            parents[name] = above[depth - 4]
    return parents


def test_the_drawing_shows_every_class_below_its_parent() -> None:
    drawn = parents_in_the_drawing()
    real = {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES if kind != SeedVR2Error}
    assert drawn == real


def test_the_drawing_names_the_builtin_kinds() -> None:
    """`except ValueError` and `except TimeoutError` catch what the drawing says they catch."""
    drawing = inspect.getdoc(errors) or ""
    for kind in CLASSES:
        builtin = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
        if kind is not SeedVR2Error and builtin:
            assert f"{kind.__name__} ({builtin[0]})" in drawing


@EACH_CLASS
def test_what_is_permanent_stays_permanent_below(kind: type[SeedVR2Error]) -> None:
    """A retry policy that asks a base class's flag would otherwise be wrong for its subclasses."""
    assert kind.permanent in (True, False)
    for parent in kind.__mro__[1:]:
        if issubclass(parent, SeedVR2Error) and parent.permanent:
            assert kind.permanent


@EACH_CLASS
def test_a_user_mistake_stays_one_below(kind: type[SeedVR2Error]) -> None:
    for parent in kind.__mro__[1:]:
        if issubclass(parent, SeedVR2Error) and parent.user_mistake:
            assert kind.user_mistake


@EACH_CLASS
def test_it_survives_the_way_out_of_a_child_by_its_name(kind: type[SeedVR2Error]) -> None:
    """A child writes class name and message as JSON; the parent looks the class up by its name."""
    error = kind("segment 3: got 24 frames, expected 25")
    line = json.dumps({"kind": type(error).__name__, "message": str(error)})
    event = json.loads(line)
    back = getattr(errors, event["kind"])(event["message"])
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.permanent, back.user_mistake) == (kind.permanent, kind.user_mistake)


@EACH_CLASS
def test_it_says_what_it_means(kind: type[SeedVR2Error]) -> None:
    assert kind.__doc__ is not None
    assert kind.__doc__.endswith(".")


@EACH_CLASS
def test_each_class_has_a_code_and_a_remedy_of_its_own(kind: type[SeedVR2Error]) -> None:
    assert {"code", "remedy"} <= set(vars(kind)), "not only its parent's"
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.remedy.endswith(".")
    told = errors.with_code(kind("what is wrong"))
    assert errors.split_code(told) == ("what is wrong", kind)
    in_full = errors.in_full(kind("what is wrong:\nthe last [line]"))
    assert errors.split_code(in_full) == ("what is wrong:\nthe last [line]", kind)


def test_a_remedy_of_another_version_is_none_of_the_message() -> None:
    """A run keeps its message for as long as Prefect keeps the run."""
    told = "no weights in /weights [weights_unusable] Run seedvr2 weights verify."
    assert errors.split_code(told) == ("no weights in /weights", errors.CheckpointError)


def test_codes_are_stable() -> None:
    """Programs compare them: a code may be added, and none may change."""
    assert {kind.code: kind.__name__ for kind in errors.all_errors()} == {
        "failed": "SeedVR2Error",
        "invalid_request": "InvalidRequestError",
        "plan_impossible": "PlanError",
        "invalid_video": "InvalidVideoError",
        "unsupported_format": "UnsupportedFormatError",
        "source_failed": "SourceError",
        "source_refused": "SourceRefusedError",
        "source_unavailable": "SourceUnavailableError",
        "source_too_slow": "SourceTooSlowError",
        "file_read_failed": "FileReadError",
        "weights_unusable": "CheckpointError",
        "no_room": "ResourceError",
        "device_memory": "DeviceMemoryError",
        "not_finite": "NumericalError",
        "broken_segment": "SegmentError",
        "no_master": "NoMasterError",
        "storage_failed": "StorageError",
        "storage_refused": "StorageRefusedError",
        "not_served": "NotServedError",
        "not_public": "ForbiddenError",
        "wrong_bytes": "WrongBytesError",
        "service_unavailable": "ServiceError",
        "process_failed": "ChildFailedError",
        "stalled": "StalledError",
        "time_limit": "DeadlineError",
        "over_budget": "BudgetError",
        "stopped": "StoppedByCallerError",
    }


@pytest.mark.parametrize(
    "told", ["a message", "ends with [brackets]", "[failed] first", "a [failed]\nline", ""]
)
def test_a_text_without_a_code_stays_as_it_is(told: str) -> None:
    assert errors.split_code(told) == (told, None)
