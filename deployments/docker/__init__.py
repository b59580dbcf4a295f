"""Containers: the image (Dockerfile), and the worker that runs a job in one (worker.py)."""
