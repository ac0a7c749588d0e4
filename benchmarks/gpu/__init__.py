"""Checks and figures of everything that runs on a GPU, in one command for a bare machine: `python -m benchmarks.gpu`.

__main__.py     the sections, their order and share of the time; runs each in a process of its own
section.py      what a section is given, and the process that runs one
result.py       a section's document: checks, goals, figures; and the report of all of them
environment.py  captions.py  latents.py  upload.py  kernels.py  encoding.py  commands.py  profile.py     the sections

Imports `pipeline`, `trainer`, `schemas` and the other benchmarks. Needs neither ray nor tyro.
"""
