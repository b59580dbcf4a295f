"""Segments are coded again from their masters, without an engine."""
