"""The beginning of a long video is restored before all its cuts are known."""
