# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum whose matrix updates are made orthogonal by Newton-Schulz iterations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(x: Tensor) -> Tensor:
    """About U·Vᵀ of the singular value decomposition of each matrix of x (count, rows, cols)."""
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    y = y.bfloat16() if y.is_cuda else y
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if tall else y).to(x.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices only; those of one shape are updated together."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                update = orthogonal(torch.stack([self._momentum(p, group) for p in params]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, direction in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=rate)

    def _momentum(self, p: Tensor, group: dict[str, float]) -> Tensor:
        """The Nesterov step of one matrix."""
        assert p.grad is not None
        average = self.state[p].setdefault("average", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(average, group["momentum"])
