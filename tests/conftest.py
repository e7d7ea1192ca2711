"""Property tests that repeat exactly and do not mind a busy machine; one thread, as tensors here are tiny."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("hilum", deadline=None, derandomize=True, database=None)
settings.load_profile("hilum")
