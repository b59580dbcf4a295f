"""Words of tus 1.0 (https://tus.io/protocols/resumable-upload) that both sides use."""

VERSION = "1.0.0"
BODY_TYPE = "application/offset+octet-stream"
REFERENCE = "Upload-Video-Url"
"""Ours: what a request says in `video_url` for a whole upload, percent-encoded."""
