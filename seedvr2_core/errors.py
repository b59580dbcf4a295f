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
├── StorageError                          the storage refused or lost the output
│   ├── StorageRefusedError               it always will; credentials, address or request are wrong
│   ├── NotServedError                    stored, but its public address never showed it
│   ├── ForbiddenError                    stored, but its public address answers 401 or 403
│   └── WrongBytesError                   stored, but its public address shows something else
├── ServiceError                          a server that is needed is away or refuses
├── ChildFailedError                      the child process ended by itself
├── StalledError (TimeoutError)           the child gave no sign of life for its stall limit
├── DeadlineError (TimeoutError)          a segment or job limit was passed
└── StoppedByCallerError                  the program that called us has asked us to stop

A message says what is wrong, what was got, what was expected and what to do. `permanent` tells the
retry policy that trying again cannot help; `user_mistake` makes the command end with exit code 2.
"""


class SeedVR2Error(Exception):
    """Base of every error this system raises on purpose."""

    permanent: bool = False
    user_mistake: bool = False


class InvalidRequestError(SeedVR2Error, ValueError):
    """An option or a combination of options cannot be carried out."""

    permanent = True
    user_mistake = True


class PlanError(InvalidRequestError):
    """Sizes, windows or overlap cannot be planned."""


class InvalidVideoError(SeedVR2Error, ValueError):
    """The source is not a video that can be read."""

    permanent = True
    user_mistake = True


class UnsupportedFormatError(InvalidVideoError):
    """The source is a video of a kind that is refused."""


class SourceError(SeedVR2Error):
    """The source could not be obtained."""

    user_mistake = True


class SourceRefusedError(SourceError, ValueError):
    """The source will never be obtained: scheme, address, 404, not a file."""

    permanent = True


class SourceUnavailableError(SourceError):
    """The source could not be obtained now; trying again may help."""


class FileReadError(SeedVR2Error):
    """The machine failed to read a file that is there: a bad disk, a network share that is away."""


class SourceTooSlowError(SourceError):
    """The source did not come within the time that all attempts together may take."""

    permanent = True


class CheckpointError(SeedVR2Error, ValueError):
    """Weights are missing, wrong, truncated or mixed up."""

    permanent = True
    user_mistake = True


class ResourceError(SeedVR2Error):
    """Memory or disk does not suffice; the message says by how much."""

    permanent = True


class DeviceMemoryError(ResourceError):
    """The device ran out of memory, and no smaller rung is left."""


class NumericalError(SeedVR2Error):
    """Non-finite values survived every rung of the precision ladder."""

    permanent = True


class SegmentError(SeedVR2Error):
    """A segment or the joined file broke its contract."""


class StorageError(SeedVR2Error):
    """The storage refused or lost the output."""


class StorageRefusedError(StorageError):
    """The storage will refuse every time: credentials, address or request are wrong."""

    permanent = True
    user_mistake = True


class NotServedError(StorageError):
    """The file is stored, but its public address did not show it in the time that was allowed."""

    permanent = True


class ForbiddenError(StorageError):
    """The file is stored, but its public address answers 401 or 403."""

    permanent = True


class WrongBytesError(StorageError):
    """The file is stored, but its public address shows other bytes, or a web page."""

    permanent = True


class ServiceError(SeedVR2Error):
    """A server that is needed (gateway, Prefect) is away, fails, or refuses what was asked."""


class ChildFailedError(SeedVR2Error):
    """The child process ended by itself; the message holds its last log lines."""


class StalledError(SeedVR2Error, TimeoutError):
    """The child gave no sign of life for its stall limit."""


class DeadlineError(SeedVR2Error, TimeoutError):
    """A segment or job limit was passed."""

    permanent = True


class StoppedByCallerError(SeedVR2Error):
    """The program that called us has asked us to stop; finished segments are kept."""

    permanent = True
