"""The training side: streams an encoded dataset into torch, and never loads a text encoder.

It meets the rest of the project only at the stored dataset, which it reads through `schemas`. It never imports
`pipeline`, transformers, open_clip or ray; the `trainer` extra does not install them, and model code is diffusers',
which works without them. The import contracts in pyproject.toml and tests/trainer/ keep it so.
"""
