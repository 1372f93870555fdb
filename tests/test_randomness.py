import torch

from cifar_resnet.randomness import generator


def test_streams_are_those_of_earlier_versions() -> None:
    """Resumed runs and checked-in results rest on these numbers."""
    pinned = {
        (0, "shuffle", 0): [172261415, 679124124, 692857425],
        (0, "augmentation", 49): [17235124, 868906770, 850146012],
        (7, "initialization", 0): [698514754, 92372675, 628080454],
    }
    assert {key: torch.randint(10**9, (3,), generator=generator(*key)).tolist() for key in pinned} == pinned
