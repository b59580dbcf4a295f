"""Pictures on the way into the model and out of it: size, padding, colour, integers.

Shape legend: B = 1 batch, T frames, C channels, H W pixels (padded, where not said otherwise).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.color import (
    CHROMA_STAGES,
    LUMA_STAGES,
    ColorMethod,
    needs_whole_shot,
    toward_source,
    transfer_color,
    wavelet_radii,
)
from seedvr2_core.engines.seedvr2.transfer import Lanes
from seedvr2_core.frames import Frame, host_tensor, padded_size, resize, rounded, widened
from seedvr2_core.kernels.color import blur_band, wavelet_color
from seedvr2_core.kernels.kernel import uses_triton
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.conv import LAYOUT

Padding = Callable[[Tensor], Tensor]
"""A picture (3, height, width) in [-1, 1] -> padded to `frames.padded_size`."""


class Pictures:
    """Converts frames for a job's size, on its device."""

    def __init__(
        self,
        size: tuple[int, int],
        color: ColorMethod,
        lanes: Lanes,
        device: torch.device,
        *,
        strength: float = 1.0,
    ) -> None:
        """Convert to (height, width) and give restored frames their colour by that method.

        With a strength below 1 they take a part of their detail from the source before.

        A source frame is sent to the device twice, when it is encoded and when its restored frame
        takes its colour. Kept there at the target size it would need 25 MB at 1080p, 100 MB at 4k.
        """
        self.size = size
        self.method: ColorMethod = color
        self._strength = strength
        self._lanes, self._device = lanes, device
        self._bands: list[tuple[Tensor, Tensor]] = []
        """For the rows and for the columns."""

    def picture(self, frame: Frame) -> Tensor:
        """A source frame at the target size: (3, height, width) float32 in [-1, 1]."""
        (integers_HWC,) = self._lanes.upload([host_tensor(frame.rgb)])
        return resize(widened(integers_HWC), self.size)

    def color(self, content_TCHW: Tensor, sources: Sequence[Frame]) -> Tensor:
        """Give drawn frames the colour of their sources; float32 of the same shape."""
        if self.method == "none":
            return content_TCHW
        style_TCHW = torch.stack([self.picture(frame) for frame in sources])
        return transfer_color(content_TCHW, style_TCHW, self.method)

    def finished(self, content_TCHW: Tensor, sources: Sequence[Frame]) -> list[Tensor]:
        """Coloured and rounded to the integers of the source, each (H, W, 3), on the device."""
        if self.method == "wavelet" and switches().fused_color and self._has_kernels():
            return [
                self._finished_at_once(self._detailed(content_CHW, source), source)
                for content_CHW, source in zip(content_TCHW, sources, strict=True)
            ]
        at_once = len(sources) if needs_whole_shot(self.method) else 1
        done: list[Tensor] = []
        for start in range(0, len(sources), at_once):
            part = sources[start : start + at_once]
            part_TCHW = content_TCHW[start : start + at_once]
            if self._strength < 1:
                detailed = map(self._detailed, part_TCHW, part)
                part_TCHW = torch.stack(list(detailed))
            color_TCHW = self.color(part_TCHW, part)
            kinds: list[Any] = [source.rgb.dtype.name for source in part]
            done += [rounded(x_CHW, kind) for x_CHW, kind in zip(color_TCHW, kinds, strict=True)]
        return done

    def _detailed(self, content_CHW: Tensor, source: Frame) -> Tensor:
        """A restored frame with as much detail of its own as the job's strength says."""
        if self._strength == 1:
            return content_CHW
        return toward_source(content_CHW.float(), self.picture(source), self._strength)

    def _has_kernels(self) -> bool:
        """Without Triton the plain way is faster than the kernel's reference; tests run that."""
        if self._device.type == "cpu":
            return takes_gpu_path(self._device)
        return uses_triton(self._device)

    def _finished_at_once(self, content_CHW: Tensor, source: Frame) -> Tensor:
        """`finished` of one frame by our own kernel."""
        dtype = getattr(torch, source.rgb.dtype.name)
        out_HWC = torch.empty((*self.size, 3), dtype=dtype, device=self._device)
        low_CHW = torch.empty((3, *self.size), device=self._device)
        if not self._bands:
            self._bands = [self._bands_of(length) for length in self.size]
        rows, columns = self._bands
        wavelet_color(out_HWC, content_CHW, self.picture(source), low_CHW, rows, columns)
        return out_HWC

    def _bands_of(self, length: int) -> tuple[Tensor, Tensor]:
        """Of luma and of chroma."""
        radii = tuple(wavelet_radii(LUMA_STAGES))
        luma, chroma = blur_band(length, radii), blur_band(length, radii[:CHROMA_STAGES])
        return luma.to(self._device), chroma.to(self._device)

    def as_video(
        self, frames: Sequence[Frame], num_frames: int, dtype: torch.dtype, padding: Padding
    ) -> Tensor:
        """(1, 3, num_frames, H, W), padded; the last frame is repeated where frames end."""
        size = (1, 3, num_frames, *padded_size(*self.size))
        video_BCTHW = torch.empty(size, dtype=dtype, device=self._device, memory_format=LAYOUT)
        for video_CHW, frame in zip(video_BCTHW[0].unbind(1), frames, strict=False):
            video_CHW.copy_(padding(self.picture(frame)))
        video_BCTHW[:, :, len(frames) :] = video_BCTHW[:, :, len(frames) - 1, None]
        return video_BCTHW


def framed(pictures: Sequence[Tensor], sources: Sequence[Frame]) -> Iterator[Frame]:
    """Pictures that have come to the host, as frames with the times of their sources."""
    for picture_HWC, source in zip(pictures, sources, strict=True):
        yield replace(source, rgb=picture_HWC.numpy())
