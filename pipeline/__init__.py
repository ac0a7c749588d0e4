"""Captions in, embedding shards out: the Ray job that runs the three text encoders once.

Imports `schemas`, never `trainer`. The engine (everything but `job/`) is plain torch and runs without ray.
"""

import os

# Threads of an OpenMP pool that wait for each other spin for some microseconds only, and then sleep. GNU's runtime
# spins 200 times longer by default: where another process has taken one of the cores, for a thread that is not
# scheduled, on the very core it needs. Without spinning, a small model's many short loops cost a third more time
# (docs/training.md). The runtime reads this when torch is first imported. Ray's workers inherit it
# from the driver; on other nodes this import sets it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1500")
# MKL sums a float32 product in an order that does not depend on the number of threads, so that workers with more or
# fewer cores store the same values (docs/decisions/0012). It reads this at the first product. Ray's workers inherit it
# from the driver; on other nodes this import sets it.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
