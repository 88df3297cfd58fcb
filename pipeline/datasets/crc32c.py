"""CRC-32C (Castagnoli; RFC 3720, appendix B.4), by which a TFRecord file knows that its bytes are as written.

The standard library has another polynomial. Running the register over zeros is linear in its bits, so that the
checksum of A + B is that of A, run over as many zeros as B has bytes, xor that of B: pairs are joined, all at once.
Dimension key: N registers, H values of half a register.
"""

import functools

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # bits reversed
_FEW_BYTES = 64  # that the plain loop is quicker for
_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of `data`, from 0 to 2**32 - 1."""
    if len(data) < _FEW_BYTES:
        return _looped(data)
    zeros = -len(data) % 4  # in front, where they do not count: the register starts empty
    padded = np.frombuffer(bytes(zeros) + data, np.uint8).copy()
    padded[zeros : zeros + 4] ^= 0xFF  # which is a register that starts full
    register_N, log_bytes = padded.view("<u4").astype(np.uint32), 2
    while len(register_N) > 1:
        if len(register_N) % 2:
            register_N = np.concatenate((np.zeros(1, np.uint32), register_N))
        register_N = _over_zeros(register_N[0::2], _tables(log_bytes)) ^ register_N[1::2]
        log_bytes += 1
    return int(_over_zeros(register_N, _tables(2))[0]) ^ _ONES


def _looped(data: bytes) -> int:
    table, register = _byte_table(), _ONES
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ _ONES


def _over_zeros(register_N: NDArray[np.uint32], tables_2H: NDArray[np.uint32]) -> NDArray[np.uint32]:
    halves_N2 = np.ascontiguousarray(register_N, "<u4").view("<u2").reshape(-1, 2)
    return tables_2H[0].take(halves_N2[:, 0]) ^ tables_2H[1].take(halves_N2[:, 1])


@functools.cache
def _tables(log_bytes: int) -> NDArray[np.uint32]:
    """What the lower and the upper half of a register become after 2**log_bytes zero bytes [2, H]."""
    if log_bytes:
        half_2H = _tables(log_bytes - 1)
        return np.stack([_over_zeros(register_H, half_2H) for register_H in half_2H])
    values_H = np.arange(1 << 16, dtype=np.uint32)
    lower_H = np.array(_byte_table(), np.uint32).take(values_H & 0xFF) ^ (values_H >> 8)
    return np.stack([lower_H, values_H << 8]).astype(np.uint32)


@functools.cache
def _byte_table() -> tuple[int, ...]:
    """What a register that holds one byte becomes after a zero byte."""
    return tuple(
        functools.reduce(lambda r, _: (r >> 1) ^ (_POLYNOMIAL * (r & 1)), range(8), byte) for byte in range(256)
    )
