"""Randomness as a function: the same arguments give the same draws, whatever was drawn before."""

import hashlib

import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator that depends on its arguments alone.

    `purpose` says what is drawn: "initialization" (training/state.py), "shuffle", "augmentation", "mixing"
    (`epoch_plan` in training/loop.py), "split", "sample" (preprocess). `index` is the epoch. Any two
    different argument tuples almost surely give different streams: their SHA-256 is the seed, of which
    PyTorch's CPU generator takes 32 bits. JAX derives keys so by `fold_in`. Draws are made on the CPU, so
    every device sees the same ones.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def global_state() -> torch.Tensor:
    """Return the state of PyTorch's global generators, (n,) uint8: nothing here may draw from them."""
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return torch.cat([torch.get_rng_state(), *on_gpu])
