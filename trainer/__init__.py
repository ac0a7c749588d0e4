"""The training side: streams an encoded dataset into torch, and never loads a text encoder.

It meets the rest of the project only at the stored dataset, which it reads through `schemas`. It never imports
`pipeline`, transformers, open_clip or ray; the `trainer` extra does not install them, and model code is diffusers',
which works without them. The import contracts in pyproject.toml and tests/trainer/ keep it so.
"""

import os

# Chunks of dozens of MB come and go all the time, within the stream's bound on memory. Arrow's allocator would give
# their pages back to the system 10 ms after each, to have them cleared and mapped anew for the next: a tenth of the
# loader's work. It reads this when pyarrow is first imported.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
# Threads of an OpenMP pool that wait for each other spin for some microseconds only, and then sleep. GNU's runtime
# spins 200 times longer by default: where another process has taken one of the cores, for a thread that is not
# scheduled, on the very core it needs. Without spinning, a small model's many short loops cost a third more time
# (docs/training.md). The runtime reads this when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1500")
