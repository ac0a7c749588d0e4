"""Captions in, embedding shards out: the Ray job that runs the three text encoders once.

Imports `schemas`, never `trainer`. The engine (everything but `job/`) is plain torch and runs without ray.
"""
