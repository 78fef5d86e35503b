# SPDX-License-Identifier: Apache-2.0
"""Trains a "rooms" model on so that the second of two sampler steps sharpens the first.

    python -m tools.rooms.sharpen --out DIR --init MODEL [--hours H] [--boost B]

The first step stays what it is: the mean of what may be there, blurry where the model knows little.
The second one sees that frame, without noise. It learns from the model at the start, the teacher,
which lays noise over the frame and takes it off again; what this changes is overdone, and noise
laid over and taken off once more. The mean of that over the noise is sharp, and the same each time.
"""

from __future__ import annotations

import argparse
from typing import ClassVar

import torch
from torch import Tensor

from tools.rooms import train
from tools.rooms.evaluate import Table, gradient_energy
from tools.rooms.network import Frames
from tools.rooms.train import Batch, Trainer, loss_of

TABLE = [[1.0, 0.0, 1.0, 0.0], [0.1, 0.0, 1.0, 0.0]]  # the second step sees the first one's frame
TEACHER_NOISE = 0.25
PLAIN_SHARE = 1 / 3  # of the wanted frames: these learn from the truth, at other times


def draw_plain_times(shape: torch.Size, generator: torch.Generator, device: str) -> Tensor:
    """Times (B, T) that 1 and 4 equal steps visit."""
    named = torch.tensor([1.0, 1.0, 1.0, 0.75, 0.5, 0.25], device=device)
    return named[torch.randint(len(named), shape, generator=generator, device=device)]


class Sharpener(Trainer):
    command = "python -m tools.rooms.sharpen"
    samplers: ClassVar[dict[str, Table]] = {**Trainer.samplers, "2": TABLE}

    def __init__(self, args: argparse.Namespace, model: Frames):
        super().__init__(args, model)
        self.teacher = train.open_model(args.init).to(args.device).requires_grad_(False)
        self.sharpness = 0.0

    def train_step(self, batch: Batch, progress: float) -> float:
        context, wanted, cameras, generator = self._inputs(batch, roll_out=True)
        t = draw_plain_times(wanted.shape[:2], generator, self.args.device)
        noise = torch.randn(wanted.shape, generator=generator, device=self.args.device)
        draws = torch.randn(2, *wanted.shape, generator=generator, device=self.args.device)
        loss, got, true = self._gradients(context, noise, t, cameras, wanted, *draws)
        self._update(progress)
        self._count(wanted)
        self.sharpness = got / true
        return loss

    def _part(
        self,
        context: Tensor,
        noise: Tensor,
        t: Tensor,
        cameras: Tensor,
        wanted: Tensor,
        *draws: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss, and gradient energies of generated and rendered frames (3,); gradients."""
        sharp = wanted.shape[1] - int(wanted.shape[1] * PLAIN_SHARE)
        seen_from = cameras[:, : context.shape[1] + sharp]
        first, target = self._teach(
            context, noise[:, :sharp], seen_from, [draw[:, :sharp] for draw in draws]
        )
        noisy = torch.lerp(wanted[:, sharp:], noise[:, sharp:], t[:, sharp:, None, None])
        t = torch.cat([torch.full_like(t[:, :sharp], TABLE[1][0]), t[:, sharp:]], 1)
        x0 = self._predict(self.forward, context, torch.cat([first, noisy], 1), t, cameras)
        loss = loss_of(x0, torch.cat([target, wanted[:, sharp:]], 1), t.clamp(min=0.5))
        pictures = (self.model.image(x[:, :sharp].detach()).flatten(0, 1) for x in (x0, wanted))
        figures = torch.tensor([float(loss.detach()), *map(gradient_energy, pictures)])
        return figures, torch.autograd.grad(loss, self.trained)

    @torch.no_grad()
    def _teach(
        self, context: Tensor, noise: Tensor, cameras: Tensor, draws: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The frame of the first step, and the sharp one that the teacher makes of it."""

        def look(x: Tensor, noise: Tensor, time: float) -> Tensor:
            t = torch.full(x.shape[:2], time, device=x.device)
            return self._predict(self.teacher, context, torch.lerp(x, noise, time), t, cameras)

        first = look(noise, noise, 1.0)
        cleaned = torch.lerp(
            look(first, draws[0], TEACHER_NOISE), look(first, -draws[0], TEACHER_NOISE), 0.5
        )
        overdone = (first + self.args.boost * (cleaned - first)).clamp(-1, 1)
        return first, look(overdone, draws[1], TEACHER_NOISE)

    def figures(self) -> dict[str, float]:
        return {"sharpness": round(self.sharpness, 3)}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = train.options(__doc__.splitlines()[0])
    parser.set_defaults(hours=1.5, rooms=8, rate=0.008)
    parser.add_argument(
        "--boost", type=float, default=5.0, help="how far the teacher overdoes a change"
    )
    args = train.parse(arguments, parser)
    if not args.init:
        parser.error("--init: expected the model to sharpen, got none")
    return args


if __name__ == "__main__":
    train.run(parse(), Sharpener)
