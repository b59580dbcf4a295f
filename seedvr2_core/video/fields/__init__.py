"""Interlaced video: its fields, and the frames that are made of them."""
