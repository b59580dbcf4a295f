"""Into which container the other streams go, and what is wanted of the sound."""

from dataclasses import dataclass

from seedvr2_core.video.info import StreamInfo
from seedvr2_core.video.output.formats import ContainerSpec

KEPT, LEFT_OUT, AS_AAC = "keep", "none", "aac"
"""What a request can want of the sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryWay:
    """How a source's other streams are carried."""

    container: ContainerSpec
    audio: str = KEPT

    @property
    def name(self) -> str:
        """Of the container, in notes."""
        return self.container.ending.removeprefix(".")

    def wants(self, stream: StreamInfo) -> bool:
        """Whether a stream is carried at all, if that is possible."""
        return stream.kind == "subtitle" or (stream.kind == "audio" and self.audio != LEFT_OUT)

    def may_copy(self, stream: StreamInfo) -> bool:
        """Whether a stream's packets are copied if the container takes them."""
        if stream.kind == "audio":
            return stream.codec in self.container.sound and self.audio in (KEPT, stream.codec)
        return stream.codec in self.container.text
