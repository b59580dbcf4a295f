"""Kinds of sound: what a frame holds, and what a track of the mp4 can hold instead.

Layouts are FFmpeg's names ("5.1", "6.1(back)"). A layout is kept wherever an encoder for mp4 has
it; measured by encoding each one and reading the file back, because some encoders take a layout and
write another.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer

from seedvr2_core.video.carry.nothing import NullFile

_AAC_BITS_PER_CHANNEL = 96_000
_AAC_RATES = frozenset(
    {7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)
_LEAST_AAC_RATE = 32_000
_FALLBACK_RATE = 48_000
_PACKET_SAMPLES = 1024
"""Of an encoder that takes any number."""

_AAC_LAYOUTS = frozenset(
    {"mono", "stereo", "2.1", "3.0", "3.0(back)", "4.0", "quad", "5.0", "5.1", "7.1"}
)
_LOSSLESS_LAYOUTS = {"6.1": "flac", "6.1(back)": "alac", "7.1(wide)": "alac"}
_SAME_SPEAKERS = {"quad(side)": "quad", "5.0(side)": "5.0", "5.1(side)": "5.1", "downmix": "stereo"}
"""AAC has one kind of surround channels; whether they stand at the side or behind is a name."""
_OPUS_LAYOUTS = frozenset({"mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"})
_OPUS_RATE, _OPUS_BITS_PER_CHANNEL = 48_000, 64_000
_ENCODERS = {"opus": "libopus"}
"""Where FFmpeg's own encoder is not the one to use."""
_LABELS = {
    "opus": "Opus",
    "aac": "AAC",
    "flac": "FLAC",
    "alac": "ALAC",
    "pcm_s16le": "PCM",
    "pcm_s24le": "PCM",
}
_UNNAMED = re.compile(r"(\d+) channels")
_MOST_CHANNELS = 24
_SIXTEEN_BITS = frozenset({"u8", "u8p", "s16", "s16p"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundFormat:
    """What decoded sound looks like."""

    rate: int
    """Samples per second."""
    layout: str
    channels: int
    sample_format: str

    @classmethod
    def of(cls, frame: AudioFrame) -> "SoundFormat":
        """That of a frame."""
        return cls(
            rate=frame.sample_rate,
            layout=frame.layout.name,
            channels=frame.layout.nb_channels,
            sample_format=frame.format.name,
        )

    @property
    def is_unnamed(self) -> bool:
        """Whether nobody says which speaker a channel belongs to."""
        return _UNNAMED.fullmatch(self.layout) is not None

    @property
    def speakers(self) -> str:
        """The layout, or the usual one for the number of channels where none is named.

        For numbers that have none, the next larger one: some of its channels stay silent.
        """
        if not self.is_unnamed:
            return self.layout
        for count in range(self.channels, _MOST_CHANNELS + 1):
            try:
                return AudioLayout(f"{count}c").name
            except ValueError:
                continue
        return self.layout


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundTarget:
    """What a track of the mp4 is encoded as."""

    codec: str
    rate: int
    layout: str
    sample_format: str

    @property
    def label(self) -> str:
        """The codec's name for people."""
        return _LABELS[self.codec]

    @property
    def needs_every_sample(self) -> bool:
        """Whether mp4 counts this codec's samples instead of keeping the packets' times."""
        return self.codec.startswith("pcm")

    def add_to(self, output: OutputContainer) -> AudioStream:
        """A stream of this kind in a file that is not written yet."""
        stream = output.add_stream(_ENCODERS.get(self.codec, self.codec), rate=self.rate)
        assert isinstance(stream, AudioStream)
        context = stream.codec_context
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = self.rate
        context.layout = self.layout
        context.format = self.sample_format
        context.time_base = Fraction(1, self.rate)
        if self.codec == "aac":
            context.bit_rate = _AAC_BITS_PER_CHANNEL * context.layout.nb_channels
        if self.codec == "opus":
            context.bit_rate = _OPUS_BITS_PER_CHANNEL * context.layout.nb_channels
        context.flags |= CodecFlags.bitexact.value
        return stream

    def packet_samples(self, muxer: str) -> int:
        """Samples of a packet; 0 if the encoder or the container does not take this kind.

        A stream cannot be removed from an output, so this is tried in one that is thrown away.
        """
        try:
            with av.open(NullFile(), "w", format=muxer) as output:
                stream = self.add_to(output)
                output.start_encoding()
                return stream.codec_context.frame_size or _PACKET_SAMPLES
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            return 0


def targets(sound: SoundFormat, codec: str = "aac") -> Iterator[SoundTarget]:
    """What sound may become, the best first: its layout is kept by all but the last.

    Args:
        sound: as it is decoded.
        codec: what the container holds: "opus", or "aac" and some others.
    """
    if codec == "opus":
        yield from _opus_targets(sound)
        return
    rate = sound.rate if sound.rate in _AAC_RATES else _FALLBACK_RATE
    deep = sound.sample_format not in _SIXTEEN_BITS
    layout = _SAME_SPEAKERS.get(sound.speakers, sound.speakers)
    if layout in _AAC_LAYOUTS:
        yield SoundTarget(codec="aac", rate=_aac_rate(rate), layout=layout, sample_format="fltp")
    elif lossless := _LOSSLESS_LAYOUTS.get(layout):
        packed = "s32" if deep else "s16"
        samples = packed if lossless == "flac" else f"{packed}p"
        yield SoundTarget(codec=lossless, rate=rate, layout=layout, sample_format=samples)
    yield SoundTarget(
        codec="pcm_s24le" if deep else "pcm_s16le",
        rate=rate,
        layout=layout,
        sample_format="s32" if deep else "s16",
    )
    yield SoundTarget(codec="aac", rate=_aac_rate(rate), layout="stereo", sample_format="fltp")


def _opus_targets(sound: SoundFormat) -> Iterator[SoundTarget]:
    """Opus in the sound's layout, or in stereo."""
    layout = _SAME_SPEAKERS.get(sound.speakers, sound.speakers)
    for name in (layout, "stereo"):
        if name in _OPUS_LAYOUTS:
            yield SoundTarget(codec="opus", rate=_OPUS_RATE, layout=name, sample_format="flt")


def _aac_rate(rate: int) -> int:
    """A multiple of a low rate: AAC fills its last packet up, at 8 kHz with 0.13 s of silence."""
    while rate < _LEAST_AAC_RATE:
        rate *= 2
    return rate if rate in _AAC_RATES else _FALLBACK_RATE


def same_speakers(sound: SoundFormat, target: SoundTarget) -> bool:
    """Whether a target keeps the channels of the sound."""
    return target.layout in (sound.speakers, _SAME_SPEAKERS.get(sound.speakers))
