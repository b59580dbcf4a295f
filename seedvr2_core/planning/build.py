"""Makes the plan of a job: shots, segments, encoder, memory, predicted time and limits.

Arithmetic only; nothing is read or written.
"""

from collections.abc import Sequence
from dataclasses import asdict

from seedvr2_core.config import DIT_CONFIGS, PIXEL_VERSION, VAE_CONFIGS, EngineSpec, find_engine
from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.kernels.devices import CPU
from seedvr2_core.planning.advice import what_fits
from seedvr2_core.planning.clock import fit_clock
from seedvr2_core.planning.cutting import plan_segments, shots_between
from seedvr2_core.planning.memory import memory_notes, plan_memory
from seedvr2_core.planning.outputs import choose_output, encoder_settings
from seedvr2_core.planning.peaks import MemoryRequest
from seedvr2_core.planning.plan import (
    PLAN_FORMAT,
    MemoryPlan,
    Options,
    Plan,
    Rates,
    Segment,
    Shot,
    job_key,
    white_told,
)
from seedvr2_core.planning.sizes import BUDGETS_PX, size_note, target_size
from seedvr2_core.planning.timing import frame_seconds, job_seconds, make_limits
from seedvr2_core.planning.windows import num_latents, plan_windows, soft_boundaries
from seedvr2_core.video.info import AND_JUMPS, EncoderSettings, OutputSettings, VideoInfo
from seedvr2_core.video.output.formats import NVENC
from seedvr2_core.video.output.scales import scale_told

EIGHT_BITS = 8
NVENC_BYTES = 2**30
"""Left for the GPU's own encoder, with the pictures that wait in it. Assumed, not measured."""


def build_plan(
    video: VideoInfo,
    source_sha256: str,
    options: Options,
    *,
    cuts: Sequence[int] = (),
    began: int = 0,
    rates: Rates | None = None,
) -> Plan:
    """Plan a job.

    Args:
        video: what the probe found in the source.
        source_sha256: digest of the source.
        options: what the request asks for.
        cuts: first frames of all shots but the first. An engine without latents gets none: for it
            the video is one shot that may be divided at any frame.
        began: where the first shot begins in the film, of which the video may be a part: 0 or
            below.
        rates: how fast this machine is; None: as the tables in `timing.py` have it.

    Raises:
        PlanError: the windows cannot be planned, the colour correction needs a whole shot at once
            and a shot has more than one window, the output would be larger than the encoder takes,
            or mp4 cannot hold the times of the frames.
        ResourceError: an engine with latents does not fit into the device's free memory; the
            message says what fits, which has been tried.
    """

    def plan(changed: Options) -> Plan:
        return _build(video, source_sha256, changed, (cuts, began), rates)

    try:
        return plan(options)
    except ResourceError as error:
        other = what_fits(options, plan)
        told = (
            f", or {other}" if other else "; no shorter batch and no lower resolution fits either"
        )
        raise ResourceError(f"{error}{told}") from error


def _build(
    video: VideoInfo,
    source_sha256: str,
    options: Options,
    cuts: tuple[Sequence[int], int],
    rates: Rates | None,
) -> Plan:
    """Plan a job as `build_plan` does; its ResourceError gives no advice."""
    spec = find_engine(options.engine.name)
    video, clock_note = fit_clock(video)
    width, height = target_size(video, options.resolution)
    output = choose_output(video, options)
    encoder = encoder_settings(video, width, height, output, options)
    deep = max(video.bit_depth, output.bits) > EIGHT_BITS
    shots = shots_between(cuts[0], video.num_frames, cuts[1])
    soft = {shot.index: _soft_boundaries(shot, spec, options) for shot in shots}
    segments = plan_segments(
        video, shots, segment_seconds=options.segment_seconds, soft_boundaries=soft
    )
    memory, fitted = _memory(spec, video, (width, height), shots, segments, options, deep=deep)
    frame = frame_seconds(video, width, height, options, rates)
    lead = -shots[0].start
    return Plan(
        format=PLAN_FORMAT,
        pixel_version=PIXEL_VERSION,
        job_key=_plan_key(
            source_sha256, video, options, output.settings, encoder, (shots, segments), deep
        ),
        source_sha256=source_sha256,
        video=video,
        resolution=options.resolution,
        width=width,
        height=height,
        engine=options.engine,
        device=options.device,
        torch_threads=options.cpu_count,
        weights_file=options.weights_file,
        shots=shots,
        segments=segments,
        encoder=encoder,
        output=output.settings,
        deep=deep,
        memory=memory,
        eta_seconds=round(
            options.load_seconds + lead * frame.engine + job_seconds(frame, video.num_frames), 1
        ),
        limits=make_limits(options, width, height),
        frame_seconds=frame,
        notes=(
            *video.warnings,
            *([clock_note] if clock_note else []),
            *options.notes,
            *output.notes,
            *_lead_notes(lead, lead * frame.engine),
            *_engine_notes(spec, video, options.engine.strength),
            *_size_notes(video, width, height, options.resolution),
            *fitted,
        ),
    )


def _lead_notes(lead: int, seconds: float) -> list[str]:
    """What a part of a film costs beside its own frames."""
    if not lead:
        return []
    frames = "the frame" if lead == 1 else f"the {lead} frames"
    return [
        f"{frames} before this part are restored as well and left out, so that its frames have the "
        f"noise that they have in the whole film; that takes about {seconds:.1f} s"
    ]


def _engine_notes(spec: EngineSpec, video: VideoInfo, strength: float) -> list[str]:
    """What its author means the engine for, where this is something else; a lower strength."""
    notes = []
    if spec.meant_for and video.num_frames != 1:
        notes.append(f"{spec.name} is for {spec.meant_for}, by its author's word")
    if strength < 1:
        notes.append(f"strength {strength:g}: a part of the detail in brightness is the source's")
    return notes


def _memory(
    spec: EngineSpec,
    video: VideoInfo,
    size: tuple[int, int],
    shots: Sequence[Shot],
    segments: Sequence[Segment],
    options: Options,
    *,
    deep: bool,
) -> tuple[MemoryPlan | None, list[str]]:
    """How an engine with latents uses the device's memory, with notes; None for the others."""
    if not spec.has_latents:
        return None, []
    engine = options.engine
    pieces = [piece for segment in segments for piece in segment.pieces]
    longest = max(num_latents(piece.stop - piece.start) for piece in pieces)
    longest_shot = max(num_latents(shot.stop - shot.start) for shot in shots)
    on_cpu = options.device == "cpu"
    request = MemoryRequest(
        dit_config=DIT_CONFIGS[spec.dit],
        vae_config=VAE_CONFIGS[spec.vae],
        width=size[0],
        height=size[1],
        num_latents_in_window=min(engine.window, longest_shot),
        overlap=engine.overlap,
        segment_latents=longest + engine.overlap,
        source_frame_bytes=video.width * video.height * (6 if deep else 3),
        bit_depth=16 if deep else 8,
        alpha=video.keeps_alpha,
        device_bytes=_without_encoder(options),
        host_bytes=options.host_bytes,
        device_kind=options.device_kind,
        # CPUs are slow in half precision.
        vae_dtype="float32" if on_cpu else "float16",
        dit_dtype=CPU.dit_dtype if on_cpu else options.dit_dtype,
        own_kernels=options.own_kernels,
        color_correction=engine.color_correction,
        strength=engine.strength,
        quantized=options.quantized,
    )
    plan = plan_memory(request)
    return plan, [*memory_notes(request, plan), *_moving_notes(plan, video.num_frames)]


def _without_encoder(options: Options) -> int | None:
    """The device's free memory without what its own encoder takes; None for the host."""
    if options.device_bytes is None or options.encoder != NVENC:
        return options.device_bytes
    return max(0, options.device_bytes - NVENC_BYTES)


def _moving_notes(memory: MemoryPlan, num_frames: int) -> list[str]:
    """What streaming adds to the time of all these frames."""
    seconds = memory.moving_seconds * num_frames / 100
    if seconds < 1:
        return []
    return [
        f"the expected time is that of the work alone: what moves to and from the GPU adds at most "
        f"{seconds:.0f} s for the {num_frames} frames of this video"
    ]


def _soft_boundaries(shot: Shot, spec: EngineSpec, options: Options) -> Sequence[int]:
    """Frames inside a shot where a segment may end, by what the engine carries from there on."""
    if spec.has_latents:
        return _window_starts(shot, options)
    return range(shot.start + 1, shot.stop)


def _window_starts(shot: Shot, options: Options) -> list[int]:
    """Frames inside a shot where a segment may end: the starts of all its windows but the first."""
    engine = options.engine
    latents = num_latents(shot.stop - shot.start)
    windows = plan_windows(latents, window=engine.window, overlap=engine.overlap)
    if len(windows) > 1 and engine.color_correction == "lab":
        raise PlanError(
            f"color_correction lab matches colours over a whole shot, and the shot from frame "
            f"{shot.start} is longer than one window; choose wavelet or a larger batch_size"
        )
    return [shot.start + frame for frame in soft_boundaries(windows)]


def _plan_key(
    source_sha256: str,
    video: VideoInfo,
    options: Options,
    output: OutputSettings,
    encoder: EncoderSettings,
    cutting: tuple[Sequence[Shot], Sequence[Segment]],
    deep: bool,
) -> str:
    """The job key, from everything that changes a byte of the output on one kind of device.

    What versions before knew only one value of stands in it only where it has another one, so that
    jobs that they have begun keep their keys.
    """
    shots, segments = cutting
    newer = ("hdr", "encoder", "grain", "grain_seed")
    encoding = {k: v for k, v in asdict(encoder).items() if k not in newer or v}
    engine = {k: v for k, v in asdict(options.engine).items() if k != "strength" or v != 1.0}
    return job_key(
        {
            "source": source_sha256,
            "pixel_version": PIXEL_VERSION,
            "engine": engine,
            "encoder": encoding,
            # Where looking for jumps found nothing, the job is that of the version before.
            "cut_detector": options.cut_detector.replace(AND_JUMPS, ""),
            "shots": [shot.start for shot in shots],
            **({"shot": "goes on"} if shots[0].goes_on else {}),
            "segments": [segment.start for segment in segments],
            # Its name is in the file's metadata; the names of budgets follow from the size.
            **({"resolution": options.resolution} if options.resolution not in BUDGETS_PX else {}),
            **({"output": asdict(output)} if output != OutputSettings() else {}),
            **({"frames": "uint16"} if deep else {}),
            **white_told(video, deep=deep),
            **scale_told(encoder.codec, encoder.crf),
            **({"reading": told} if (told := video.reading.told(video.num_frames)) else {}),
        }
    )


def _size_notes(video: VideoInfo, width: int, height: int, resolution: str) -> tuple[str, ...]:
    """Tell the user what the resolution means here, and when the picture gets smaller."""
    display_width, display_height = video.display_size
    notes = [size_note(display_width, display_height, resolution)]
    if display_width * display_height > width * height:
        notes.append(
            f"the source ({float(display_width):g}x{float(display_height):g}) is larger than the "
            f"target ({width}x{height}) and is scaled down"
        )
    return tuple(note for note in notes if note)
