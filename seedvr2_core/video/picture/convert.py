"""Decoded pictures -> upright R'G'B' of one size.

A picture whose shape differs from the first one's (a phone that was turned, a broadcast that
changes between 4:3 and 16:9) is shown whole, with black bars.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from seedvr2_core.video.alpha.colours import filled, flattened
from seedvr2_core.video.alpha.facts import KEEP
from seedvr2_core.video.alpha.planes import alpha_of, levels_of, rescaled
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.formats import CODECS, is_rgb_format
from seedvr2_core.video.picture.color import (
    TO_RGB,
    bit_depth,
    has_alpha,
    sws_colorspace,
    sws_range,
)
from seedvr2_core.video.picture.facts import plausible_sar
from seedvr2_core.video.picture.levels import from_shifted, rgb_planes, shifted_bits
from seedvr2_core.video.picture.light import (
    LINEAR,
    SRGB,
    coded_of,
    is_light,
    planes_of_light,
    straight_light,
)

_EIGHT_BITS, _DEEP_BITS = 8, 16


class Converter:
    """Decoded pictures -> upright (H, W, 3) R'G'B' full range; keeps one swscale context.

    Args:
        info: of the source.
        deep: whether to give uint16 instead of uint8.
    """

    def __init__(self, info: VideoInfo, *, deep: bool = False) -> None:
        self._info = info
        self._dtype = np.uint16 if deep else np.uint8
        self._reformatter = VideoReformatter()
        self._holds_light = info.codec in CODECS and CODECS[info.codec].linear
        # np.rot90 turns counter-clockwise.
        self._turns = -info.rotation // 90 % 4
        self._usual = (*info.decoded_size, Fraction(*info.codec_sar) or None)

    def __call__(self, picture: VideoFrame) -> np.ndarray:
        """Convert one picture, whose `opaque` is the sample aspect ratio that its codec gives.

        What becomes of its alpha is as `info.reading` says.
        """
        if not self._info.reading.alpha:
            return self._upright(picture, self._rgb, (3,))
        rgb, _ = self.with_alpha(picture)
        return rgb

    def with_alpha(self, picture: VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, and the picture's alpha as (H, W) of the same type; None where it has none."""
        rgb = self._upright(picture, self._rgb, (3,))
        wish = self._info.reading.alpha
        alpha = self.alpha(picture)
        if alpha is None or not wish:
            return rgb, alpha
        return filled(rgb, alpha) if wish == KEEP else flattened(rgb, alpha, wish), alpha

    def alpha(self, picture: VideoFrame) -> np.ndarray | None:
        """The alpha alone; nothing is visible where a picture of another shape has black bars."""
        if not has_alpha(picture.format.name):
            return None
        return self._upright(picture, self._alpha, ())

    def _upright(
        self,
        picture: VideoFrame,
        convert: Callable[[VideoFrame, int, int], np.ndarray],
        channels: tuple[int, ...],
    ) -> np.ndarray:
        """What `convert` makes of a picture at a width and a height, in its place, upright."""
        info = self._info
        size = None
        if (picture.width, picture.height, picture.opaque) != self._usual:
            size = _fitted_size(picture, info)
        if size is None:
            left, top, _, _ = info.crop
            whole = convert(picture, *self._usual[:2])
            made = whole[top : top + info.height, left : left + info.width]
        else:
            width, height = size
            made = np.zeros((info.height, info.width, *channels), self._dtype)
            left, top = (info.width - width) // 2, (info.height - height) // 2
            made[top : top + height, left : left + width] = convert(picture, width, height)
        made = np.rot90(made, self._turns) if self._turns else made
        return np.fliplr(made) if info.mirrored else made

    def _stretched(self, picture: VideoFrame) -> np.ndarray | None:
        """R'G'B' of fewer than 16 bits with 65535 as white; None where swscale is to do it.

        swscale goes by way of Y'CbCr there, and is off by up to 40 levels.
        """
        name = picture.format.name
        bits = bit_depth(name)
        if bits <= _EIGHT_BITS:
            planar = self._reformatter.reformat(
                picture,
                format="gbrp",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG,
                interpolation=TO_RGB,
                threads=1,
            )
            kind = np.dtype(np.uint8)
        elif name.startswith("gbr") and bits < _DEEP_BITS:
            planar, kind = picture, np.dtype(">u2" if name.endswith("be") else "<u2")
        else:
            return None
        green, blue, red = (
            rescaled(levels_of(plane, kind), max(_EIGHT_BITS, bits), np.dtype(np.uint16))
            for plane in planar.planes[:3]
        )
        return np.stack([red, green, blue]).transpose(1, 2, 0)

    def _coded(self, picture: VideoFrame) -> np.ndarray:
        """A picture of ours that holds light."""
        planes = planes_of_light(picture)
        light = np.stack(planes[:3], axis=2)
        if has_alpha(picture.format.name):
            light = straight_light(light, planes[3])
        transfer = self._info.color.transfer
        coded = coded_of(light, SRGB if transfer == LINEAR else transfer)
        return rescaled(coded, _DEEP_BITS, np.dtype(self._dtype))

    def _alpha(self, picture: VideoFrame, width: int, height: int) -> np.ndarray:
        if self._holds_light and is_light(picture.format.name):
            levels = coded_of(planes_of_light(picture)[-1], LINEAR)
            return rescaled(levels, _DEEP_BITS, np.dtype(self._dtype))
        alpha = alpha_of(picture, np.dtype(self._dtype))
        assert alpha is not None
        if alpha.shape == (height, width):
            return alpha
        name = "gray16le" if self._dtype is np.uint16 else "gray"
        scaled = VideoFrame.from_ndarray(alpha, format=name).reformat(
            width=width, height=height, interpolation=TO_RGB
        )
        return scaled.to_ndarray()

    def _rgb(self, picture: VideoFrame, width: int, height: int) -> np.ndarray:
        info = self._info
        pix_fmt = picture.format.name
        if self._holds_light and is_light(pix_fmt):
            return self._coded(picture)
        rgb_source = is_rgb_format(pix_fmt)
        full = rgb_source or info.color.full_range
        deep = self._dtype is np.uint16
        if deep and rgb_source and (width, height) == (picture.width, picture.height):
            exact = self._stretched(picture)
            if exact is not None:
                return exact
        converted = self._reformatter.reformat(
            picture,
            width=width,
            height=height,
            # Planes: the same values as rgb24 in a third of the time, by swscale's vector code. And
            # rgb48le of 4:2:0 with full chroma is broken there: strong colours overflow.
            format="gbrp16le" if deep else "gbrp",
            src_colorspace=None if rgb_source else sws_colorspace(info.color.matrix),
            src_color_range=sws_range(full),
            dst_color_range=ColorRange.JPEG,
            interpolation=TO_RGB,
            threads=1,
        )
        if not deep:
            return converted.to_ndarray()
        # As planes, which nobody has to put together and take apart again.
        rgb_CHW = np.empty((3, height, width), np.uint16)
        bits = shifted_bits(pix_fmt, full_range=full)
        for plane_HW, out_HW in zip(rgb_planes(converted), rgb_CHW, strict=True):
            from_shifted(plane_HW, bits, out_HW)
        return rgb_CHW.transpose(1, 2, 0)


def _fitted_size(picture: VideoFrame, info: VideoInfo) -> tuple[int, int] | None:
    """(width, height) of a picture of another shape inside the first one's; None: it is the same.

    The container may correct the codec's sample aspect ratio; that holds for later ones as well.
    """
    first, own = plausible_sar(Fraction(*info.codec_sar)), plausible_sar(picture.opaque)
    size = picture.width, picture.height
    if size == info.decoded_size and (not first or not own or first == own):
        return None
    width, height = size if size != info.decoded_size else (info.width, info.height)
    sar = Fraction(*info.sar)
    if own:
        sar = sar * own / first if first else own
    shape = width * sar / height / (info.width * Fraction(*info.sar) / info.height)
    if shape > 1:
        return info.width, max(1, round(info.height / shape))
    return max(1, round(info.width * shape)), info.height
