"""Brings the tensors of a file to a device in pieces, and says how long a model takes to load."""
