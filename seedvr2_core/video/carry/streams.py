"""Decides how each of a source's audio and subtitle streams is carried."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream

from seedvr2_core.video.carry.about import HANDLER, LANGUAGE, TITLE, copy_labels
from seedvr2_core.video.carry.attached import attach_all, streams_beside
from seedvr2_core.video.carry.copier import Copier
from seedvr2_core.video.carry.marks import copy_marks
from seedvr2_core.video.carry.sound import SoundFormat, SoundTarget, same_speakers, targets
from seedvr2_core.video.carry.text import TEXTS, TextConverter
from seedvr2_core.video.carry.transcoder import Transcoder
from seedvr2_core.video.carry.trial import TrialResult
from seedvr2_core.video.carry.way import AS_AAC, CarryWay
from seedvr2_core.video.info import StreamInfo, VideoInfo

Carrier = Copier | TextConverter | Transcoder

_NOT_TRIED = TrialResult()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """How the other streams of a source go into the output."""

    carriers: Mapping[int, Carrier]
    """By index of the source's stream."""
    notes: Sequence[str]
    """What is left behind or changed."""
    attached: frozenset[int] = frozenset()
    """Streams of the source that are attachments of the output."""
    timeless: frozenset[int] = frozenset()
    """Streams of the source that belong to every part of it: covers."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Index of a stream of the output -> what notes call it."""

    @property
    def kept(self) -> frozenset[int]:
        """Streams of the source that the output has in some way."""
        return self.attached | self.carriers.keys()


def add_carriers(
    output: OutputContainer,
    path: Path,
    source: InputContainer,
    info: VideoInfo,
    trials: Mapping[int, TrialResult],
    way: CarryWay,
    *,
    left_out: Collection[int] = (),
) -> Carried:
    """Add every stream that can be carried to the output.

    Args:
        output: has its video stream and is not written yet.
        path: the source.
        source: the same, open, before its first packet is read.
        info: of the source.
        trials: from `try_streams`.
        way: how they are carried.
        left_out: streams that were told to be left out already.
    """
    carriers: dict[int, Carrier] = {}
    notes: list[str] = []
    for kind in ("audio", "subtitle"):
        for stream in info.streams:
            if stream.kind != kind or stream.index in left_out or not way.wants(stream):
                continue
            carrier = _carrier(output, source, info, stream, trials, way, notes)
            if carrier is not None:
                template = source.streams[stream.index]
                copy_labels(template, carrier.stream, (LANGUAGE, TITLE, HANDLER))
                if lost := copy_marks(template, carrier.stream, way.container.muxer):
                    notes.append(f"{stream_name(stream)} {lost}: {way.name} cannot say so")
                carriers[stream.index] = carrier
    covers: set[int] = set()
    for stream in streams_beside(path, source, info, way.container):
        if stream.index in left_out:
            continue
        template, is_picture = source.streams[stream.index], stream.kind == "video"
        carriers[stream.index] = copier = Copier(
            output,
            template,
            zero=Fraction(0) if is_picture else Fraction(*info.zero_offset),
            name=stream_name(stream),
            cut=None if is_picture else way.cut,
        )
        copy_labels(template, copier.stream, (TITLE, HANDLER))
        if is_picture:
            copier.stream.disposition = Disposition.attached_pic
            covers.add(stream.index)
    attached = attach_all(output, path, source, info) if way.container.attachments else frozenset()
    named = {stream.index: stream_name(stream) for stream in info.streams}
    return Carried(
        carriers=carriers,
        notes=notes,
        attached=attached,
        timeless=frozenset(covers),
        names={carrier.stream.index: named[index] for index, carrier in carriers.items()},
    )


def stream_name(stream: StreamInfo) -> str:
    """What notes call a stream: "audio stream 1 (aac, fra)"."""
    language = f", {stream.language}" if stream.language else ""
    return f"{stream.kind} stream {stream.index} ({stream.codec}{language})"


def _carrier(
    output: OutputContainer,
    source: InputContainer,
    info: VideoInfo,
    stream: StreamInfo,
    trials: Mapping[int, TrialResult],
    way: CarryWay,
    notes: list[str],
) -> Carrier | None:
    """How one stream is carried; None (and a note) if it cannot be."""
    name, zero = stream_name(stream), Fraction(*info.zero_offset)
    trial = trials.get(stream.index, _NOT_TRIED)
    if not stream.num_packets:
        notes.append(f"{name} is empty and not carried over")
        return None
    if stream.index >= len(source.streams):
        notes.append(f"{name} begins so late that it is not known at first; it is not carried over")
        return None
    template = source.streams[stream.index]
    if stream.kind == "audio" and (not trial.formats or not isinstance(template, AudioStream)):
        part = "" if way.cut is None else " in this part of the video"
        notes.append(f"{name} cannot be decoded{part} and is not carried over")
        return None
    if trial.copies:
        return Copier(output, template, zero=zero, name=name, refused=trial.refused, cut=way.cut)
    if isinstance(template, SubtitleStream) and stream.codec in TEXTS:
        codec = way.container.plain_text
        return TextConverter(output, template, codec=codec, zero=zero, name=name, cut=way.cut)
    if isinstance(template, AudioStream):
        sound = _widest(trial.formats)
        for target in targets(sound, way.container.new_sound):
            if way.audio == AS_AAC != target.codec:
                continue
            if target.packet_samples(way.container.muxer):
                told = _conversion(stream, trial, sound, target, way)
                return Transcoder(
                    output,
                    template,
                    target=target,
                    muxer=way.container.muxer,
                    zero=zero,
                    name=name,
                    notes=[told],
                    cut=way.cut,
                )
    notes.append(f"{name} is not carried over: {way.name} does not take it")
    return None


def _widest(formats: Sequence[SoundFormat]) -> SoundFormat:
    """The format that holds most: nothing of the others is lost in it."""
    return max(formats, key=lambda f: (f.channels, f.rate))


def _conversion(
    stream: StreamInfo,
    trial: TrialResult,
    sound: SoundFormat,
    target: SoundTarget,
    way: CarryWay,
) -> str:
    """What happens to sound that is encoded anew."""
    again = stream.codec == target.codec
    made = f"was encoded anew as {target.label}" if again else f"became {target.label}"
    told = f"{stream_name(stream)}: {stream.codec} {made}"
    kinds = list(dict.fromkeys(f"{f.layout} at {f.rate} Hz" for f in trial.formats))
    if trial.changes:
        told += (
            f"; its format changes on the way ({', '.join(kinds)}), all of it is now "
            f"{target.layout} at {target.rate} Hz"
        )
    elif way.may_copy(stream):
        told += f", because {way.name} does not take it as it is"
    if not same_speakers(sound, target):
        told += f"; its {sound.channels} channels ({sound.layout}) became {target.layout}"
    elif target.codec not in ("aac", "opus"):
        told += f", which keeps its {sound.channels} channels ({target.layout})"
        if target.needs_every_sample:
            told += f"; not every player knows PCM in {way.name}"
    if target.rate < sound.rate:
        told += f"; its {sound.rate} Hz became {target.rate} Hz"
    return told
