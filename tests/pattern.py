"""Bytes for tests of transfers."""

import numpy as np


def pattern(num_bytes: int) -> bytes:
    """Bytes of which no two stretches are alike, so that a range from the wrong place shows."""
    return np.arange(num_bytes // 4 + 1, dtype=">u4").tobytes()[:num_bytes]
