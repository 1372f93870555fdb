"""The exponential moving average of a network, which often is better than the network itself.

Polyak and Juditsky 1992; for deep networks: https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
"""

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def update_ema(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the weights and statistics of `average` towards those of `model` after step `step` (from 0).

    The decay rises to its value as (1 + step) / (10 + step), as in TensorFlow: the start is soon forgotten.
    """
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(averages, values, None)
