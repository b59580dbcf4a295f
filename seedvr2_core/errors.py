"""The whole exception tree of the system; every layer raises and translates into these.

SeedVR2Error
├── InvalidRequestError (ValueError)      the request itself is wrong: options, sources, sizes
│   └── PlanError                         windows, overlap or sizes that cannot be planned
├── InvalidVideoError (ValueError)        the source is no readable video
│   └── UnsupportedFormatError            a readable video of a kind that is refused
├── SourceError                           the source could not be obtained
│   ├── SourceRefusedError (ValueError)   it never will be: scheme, address, 404, too large
│   ├── SourceUnavailableError            it may be later: connection, 5xx, cut download
│   └── SourceTooSlowError                not there when all attempts had used up their time
├── FileReadError                         the machine failed to read a file: disk, network share
├── CheckpointError (ValueError)          weights missing, wrong, truncated or mixed up
├── ResourceError                         memory or disk does not suffice; says by how much
│   └── DeviceMemoryError                 the device ran out of memory, on every rung of the ladder
├── NumericalError                        non-finite values survived every rung of the ladder
├── SegmentError                          a segment or the joined file broke its contract
│   └── NoMasterError                     nothing is there that could be coded without an engine
├── StorageError                          the storage refused or lost the output
│   ├── StorageRefusedError               it always will; credentials, address or request are wrong
│   ├── NotServedError                    stored, but its public address never showed it
│   ├── ForbiddenError                    stored, but its public address answers 401 or 403
│   └── WrongBytesError                   stored, but its public address shows something else
├── ServiceError                          a server that is needed is away or refuses
├── ChildFailedError                      the child process ended by itself
├── StalledError (TimeoutError)           the child gave no sign of life for its stall limit
├── DeadlineError (TimeoutError)          a segment or job limit was passed
│   └── BudgetError                       it would spend more than its caller allows
└── StoppedByCallerError                  the program that called us has asked us to stop

A message says what is wrong, what was got, what was expected and what to do. `permanent` tells the
retry policy that trying again cannot help; `user_mistake` makes the command end with exit code 2.
Each class has a `code` and a `remedy`, which every door shows; docs/errors.md lists them.
"""

import re
from collections.abc import Iterator


class SeedVR2Error(Exception):
    """Base of every error this system raises on purpose."""

    code: str = "failed"
    """Names the class to programs; it never changes."""
    remedy: str = "Look at the job's log, then send the same request again."
    """What helps against all errors of the class; a message says what helps against this one."""
    permanent: bool = False
    user_mistake: bool = False


class InvalidRequestError(SeedVR2Error, ValueError):
    """An option or a combination of options cannot be carried out."""

    code = "invalid_request"
    remedy = "Correct what the message names, and send the request again."
    permanent = True
    user_mistake = True


class PlanError(InvalidRequestError):
    """Sizes, windows or overlap cannot be planned."""

    code = "plan_impossible"
    remedy = "Choose other values for the options that the message names."


class InvalidVideoError(SeedVR2Error, ValueError):
    """The source is not a video that can be read."""

    code = "invalid_video"
    remedy = "Check that the file is whole and plays; convert it to an ordinary mp4."
    permanent = True
    user_mistake = True


class UnsupportedFormatError(InvalidVideoError):
    """The source is a video of a kind that is refused."""

    code = "unsupported_format"
    remedy = "Convert the video to a kind that is taken: SDR, not encrypted."


class SourceError(SeedVR2Error):
    """The source could not be obtained."""

    code = "source_failed"
    remedy = "Check that the video can be had from the machine that runs the job."
    user_mistake = True


class SourceRefusedError(SourceError, ValueError):
    """The source will never be obtained: scheme, address, 404, not a file."""

    code = "source_refused"
    remedy = "Check the address or path; only public addresses and allowed hosts are fetched."
    permanent = True


class SourceUnavailableError(SourceError):
    """The source could not be obtained now; trying again may help."""

    code = "source_unavailable"
    remedy = "Send the same request again later; what has come is kept."


class FileReadError(SeedVR2Error):
    """The machine failed to read a file that is there: a bad disk, a network share that is away."""

    code = "file_read_failed"
    remedy = "Mend the disk or the network share, then send the same request again."


class SourceTooSlowError(SourceError):
    """The source did not come within the time that all attempts together may take."""

    code = "source_too_slow"
    remedy = "Send the same request again, it goes on; or raise SEEDVR2_FETCH_SECONDS."
    permanent = True


class CheckpointError(SeedVR2Error, ValueError):
    """Weights are missing, wrong, truncated or mixed up."""

    code = "weights_unusable"
    remedy = "Download or install what the message names; seedvr2 weights list shows what is there."
    permanent = True
    user_mistake = True


class ResourceError(SeedVR2Error):
    """Memory or disk does not suffice; the message says by how much."""

    code = "no_room"
    remedy = "Make room on the disk, take a larger GPU, or choose a lower resolution."
    permanent = True


class DeviceMemoryError(ResourceError):
    """The device ran out of memory, and no smaller rung is left."""

    code = "device_memory"
    remedy = "Use a card with more memory, a lower resolution or a smaller batch."


class NumericalError(SeedVR2Error):
    """Non-finite values survived every rung of the precision ladder."""

    code = "not_finite"
    remedy = "Run seedvr2 selfcheck on the machine, and report what it says."
    permanent = True


class SegmentError(SeedVR2Error):
    """A segment or the joined file broke its contract."""

    code = "broken_segment"
    remedy = "Send the same request again: what is broken is made anew. Report it if it comes back."


class NoMasterError(SegmentError):
    """A pool without a GPU was to code a video again, and its master is gone or damaged."""

    code = "no_master"
    remedy = "Nothing: the job goes on where its frames can be restored."
    permanent = True


class StorageError(SeedVR2Error):
    """The storage refused or lost the output."""

    code = "storage_failed"
    remedy = "Look at the storage, then send the same request again: the video is stored anew."


class StorageRefusedError(StorageError):
    """The storage will refuse every time: credentials, address or request are wrong."""

    code = "storage_refused"
    remedy = "Correct the storage's settings; seedvr2 doctor checks them."
    permanent = True
    user_mistake = True


class NotServedError(StorageError):
    """The file is stored, but its public address did not show it in the time that was allowed."""

    code = "not_served"
    remedy = "The video is stored: look whether its public address is set up."
    permanent = True


class ForbiddenError(StorageError):
    """The file is stored, but its public address answers 401 or 403."""

    code = "not_public"
    remedy = "The video is stored: open its public address for reading."
    permanent = True


class WrongBytesError(StorageError):
    """The file is stored, but its public address shows other bytes, or a web page."""

    code = "wrong_bytes"
    remedy = "The video is stored: look what else answers at its public address."
    permanent = True


class ServiceError(SeedVR2Error):
    """A server that is needed (gateway, Prefect) is away, fails, or refuses what was asked."""

    code = "service_unavailable"
    remedy = "Start the server that the message names, or name another one."


class ChildFailedError(SeedVR2Error):
    """The child process ended by itself; the message holds its last log lines."""

    code = "process_failed"
    remedy = "Look at the last lines of the log, then send the same request again."


class StalledError(SeedVR2Error, TimeoutError):
    """The child gave no sign of life for its stall limit."""

    code = "stalled"
    remedy = "Send the same request again: it goes on, and is more patient."


class DeadlineError(SeedVR2Error, TimeoutError):
    """A segment or job limit was passed."""

    code = "time_limit"
    remedy = "Set a larger limit or none, and send the same request again: it goes on."
    permanent = True


class StoppedByCallerError(SeedVR2Error):
    """The program that called us has asked us to stop; finished segments are kept."""

    code = "stopped"
    remedy = "Make the same call again: it goes on."
    permanent = True


class BudgetError(DeadlineError):
    """The job would spend more time or money than its caller allows; what is made is kept."""

    code = "over_budget"
    remedy = "Send the same request again with a larger limit, or none: it goes on."


def all_errors(kind: type[SeedVR2Error] = SeedVR2Error) -> Iterator[type[SeedVR2Error]]:
    """Every class of the tree, a class before those below it."""
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == __name__:
            yield from all_errors(below)


def with_code(error: SeedVR2Error) -> str:
    """The message with the code behind it: "... [invalid_video]"."""
    return f"{error} [{error.code}]"


def remedy_of(kind: type[SeedVR2Error]) -> str:
    """The remedy of a class where it says more than its messages do; else ""."""
    return "" if kind is InvalidRequestError else kind.remedy


def error_of_code(code: object) -> type[SeedVR2Error] | None:
    """The class that has this code; None if there is none."""
    return next((kind for kind in all_errors() if kind.code == code), None)


def in_full(error: SeedVR2Error) -> str:
    """The message, the code and the remedy, for people who see nothing else of the error."""
    return f"{with_code(error)} {remedy_of(type(error))}".rstrip()


def split_code(told: str) -> tuple[str, type[SeedVR2Error] | None]:
    """The message and the class of what `with_code` or `in_full` made; None if it has no code.

    The remedy may be that of another version, which has written it into a run.
    """
    found = _CODE_BEHIND.search(told)
    kind = error_of_code(found[1]) if found else None
    return (told, None) if found is None or kind is None else (told[: found.start()], kind)


_CODE_BEHIND = re.compile(r" \[(\w+)\](?: [^\n\[\]]*)?\Z")
"""A code at the end of a text, or with a remedy behind it: one line without another code."""
