"""Reads from a file's headers what the media library does not tell.

That is what stands in the container beside the codec: which edges are hidden, whether the colours
are Dolby Vision's own, which track holds the chapters. What is strange in a header is passed over:
these are bytes of strangers, and the decoder has the last word.
"""
