"""From a display matrix to quarter turns and a mirror.

The matrix maps a point (x, y) of the coded picture, y downward, to (a x + c y, b x + d y).
"""

import math
import struct
from dataclasses import dataclass

_MATRIX = struct.Struct("=9i")
_RIGHT_ANGLE = 90
_TOLERANCE_DEGREES = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How a decoded picture becomes upright: first turned, then mirrored."""

    rotation: int = 0
    """Clockwise degrees: 0, 90, 180 or 270."""
    mirrored: bool = False
    """Whether it is flipped left to right after that."""
    warnings: tuple[str, ...] = ()


def orientation_of(matrix: bytes | None) -> Orientation:
    """What a display matrix asks for; a matrix that makes no picture asks for nothing.

    Args:
        matrix: libavutil's DISPLAYMATRIX (nine int32: a, b, u, c, d, v, x, y, w), None: there is
            none.
    """
    if matrix is None or len(matrix) < _MATRIX.size:
        return Orientation()
    a, b, _, c, d, *_ = _MATRIX.unpack_from(matrix)
    determinant = a * d - b * c
    if not determinant:
        return Orientation()
    mirrored = determinant < 0
    # Mirrored at last: taken back, what is left is a turn.
    angle = math.degrees(math.atan2(b, -a if mirrored else a)) % 360
    rotation = round(angle / _RIGHT_ANGLE) % 4 * _RIGHT_ANGLE
    distance = abs((angle - rotation + 180) % 360 - 180)
    warnings = (
        (f"a rotation of {angle:.0f} degrees was taken as {rotation}",)
        if distance > _TOLERANCE_DEGREES
        else ()
    )
    return Orientation(rotation=rotation, mirrored=mirrored, warnings=warnings)
