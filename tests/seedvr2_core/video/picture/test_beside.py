"""What lies beside a picture: a named colour profile must not end the process that looks at it."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageCms

from tests.kits.processes import ROOT

LOOK = """
import gc, sys
from pathlib import Path
from seedvr2_core.video.probe import probe_video
for _ in range(20):
    found = probe_video(Path(sys.argv[1]))
    gc.collect()
print(found.num_frames)
"""
"""A process of its own, because PyAV 18.1 crashed it: it freed the profile's name twice."""


def video_with_profiles(path: Path, num_frames: int) -> None:
    """A video of PNG pictures that each name an ICC profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with av.open(str(path), "w") as output:
        stream = None
        for index in range(num_frames):
            content = io.BytesIO()
            picture = Image.new("RGB", (64, 48), (index * 20, 100, 50))
            picture.save(content, "PNG", icc_profile=profile)
            with av.open(io.BytesIO(content.getvalue()), format="png_pipe") as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0])
                packet = next(packet for packet in source.demux() if packet.size)
                packet.stream, packet.time_base = stream, Fraction(1, 12)
                packet.pts = packet.dts = index
                output.mux(packet)


def test_pictures_that_name_a_profile_are_looked_at(tmp_path: Path) -> None:
    video_with_profiles(tmp_path / "profiles.mov", 12)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, tmp_path / "profiles.mov"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
