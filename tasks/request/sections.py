"""The sections of a request's form: in Prefect's UI and on the gateway's page."""

from collections.abc import Mapping

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Source": (
        "video_url",
        "video_path",
        "video_base64",
        "fps",
        "start",
        "end",
        "preview",
        "allow_damaged",
    ),
    "Result": ("resolution", "model", "codec", "container", "quality", "audio", "keep_master"),
    "Run": ("max_workers", "max_seconds", "max_price", "output_url", "callback_url", "fresh"),
    "Notes": ("tags", "metadata", "expires_in", "callback_events"),
    "Details": (
        *("deinterlace", "color_correction", "strength", "seed", "batch_size", "temporal_overlap"),
        *("alpha", "stitch_mode", "weights_file", "crf", "preset", "encoder", "grain"),
    ),
}
"""Heading -> fields, in the order in which people need them."""
