"""One bit an image, as text: 10,000 outcomes take 2.5 kB of a receipt."""

import numpy as np


def pack(flags: np.ndarray) -> str:
    """Return bool (N,) as hexadecimal, eight images a byte, first image first."""
    return np.packbits(flags).tobytes().hex()


def unpack(text: str, n: int) -> np.ndarray:
    """Return what `pack` packed, bool (n,). Raises ValueError if it is not the outcomes of n images."""
    content = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(content) != -(-n // 8):
        raise ValueError(f"{8 * len(content)} bits for {n} images")
    return np.unpackbits(content, count=n).astype(bool)
