"""Randomness as a function: the same arguments give the same draws, whatever was drawn before."""

import hashlib

import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator that depends on its arguments alone.

    `purpose` says what is drawn ("shuffle", "augmentation"), `index` which time (the epoch). Any two
    different argument tuples give unrelated streams: the generator is seeded from their SHA-256 (32 bits
    of which reach PyTorch's CPU generator), much as JAX derives keys by `fold_in`. Draws are made on the
    CPU so that every device sees the same ones.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
