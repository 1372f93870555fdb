"""Batch norm of several processes: by the statistics of the global batch, not of each one's share."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch norm by the statistics of all processes, each of which has an equal share of the batch.

    The arithmetic on images is that of PyTorch's own kernels; see Ioffe and Szegedy 2015,
    https://arxiv.org/abs/1502.03167, section 3 for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized images, their mean and their variance."""
        rank, size = dist.get_rank(), dist.get_world_size()
        unused = torch.zeros_like(weight)
        own = torch.stack(torch.batch_norm_update_stats(x, unused, unused, 0.0))
        # Zeros but for its own: the sum is a table of all, exact whatever the order of adding.
        table = pad(own[:, None], (0, 0, rank, size - 1 - rank))
        dist.all_reduce(table)
        means, variances = table
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of the sum of all processes' losses, through this process's images."""
        x, weight, mean, inverse = ctx.saved_tensors
        # As if this process's images were the whole batch: the mean gradients are those of its share ...
        for_x, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, None, None, mean, inverse, True, 0.0, [True, True, True]
        )
        own = torch.stack([for_weight, for_bias]) / (x.numel() // x.shape[1])
        everyones = own / dist.get_world_size()
        dist.all_reduce(everyones)
        # ... and then what those of the whole batch change.
        slope, offset = (own - everyones) * weight * inverse
        slope = slope * inverse
        offset = offset - slope * mean
        for_x = torch.addcmul(for_x, x, slope.to(x.dtype)[:, None, None])
        return for_x + offset.to(x.dtype)[:, None, None], for_weight, for_bias, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the statistics of the global batch.

    `nn.SyncBatchNorm`, which does the same, does not work on the CPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if not self.training:
            return super().forward(x)
        normalized: Tensor
        normalized, mean, variance = _GlobalBatchNorm.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = dist.get_world_size() * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return normalized


def convert_batch_norm(model: nn.Module) -> None:
    """Let the batch norms of `model` take their statistics from the global batch."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
