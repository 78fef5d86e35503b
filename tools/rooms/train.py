# SPDX-License-Identifier: Apache-2.0
"""Trains a "rooms" model on rooms rendered as it goes: every batch shows new ones.

    python -m tools.rooms.train --out DIR [--hours H] [--init MODEL] [--device cuda]

Stop it when you like: the same command goes on from the checkpoint in DIR. At the end of its time
DIR holds the model file, the fp32 weights it was made from, and a model card.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtfm_rt import reference
from rtfm_rt.convert import convert
from rtfm_rt.convert.frame_dit import flow_table
from rtfm_rt.reference import Config
from tools.rooms import card, scenes
from tools.rooms.evaluate import STEPS, Table, evaluate, sample
from tools.rooms.muon import Muon
from tools.rooms.network import Frames, initialise, projections

VIEWS = 8  # of each room; K of them are context, the others wanted
CONTEXTS, CONTEXT_ODDS = (1, 2, 4), (0.4, 0.25, 0.35)
PART = 2  # rooms that a CPU thread works on at a time; --rooms is a multiple of it
WARM_UP = 50  # steps
SAVE_EVERY, EVALUATE_EVERY = 180.0, 1200.0  # seconds
ADAM_SHARE = 0.05  # AdamW's learning rate over Muon's
ROLL_OUT_FROM, ROLL_OUT_SHARE = 0.6, 0.3  # of the time; of the steps from then on


class Batch(NamedTuple):
    """Tokens in [-1, 1] and cameras P of rooms; `step` names the batch and seeds its noise."""

    step: int
    context_count: int
    images: Tensor  # uint8 (B, F, size, size, 3), context frames first
    poses: Tensor  # float32 (B, F, 12)


def make_batch(args: argparse.Namespace, step: int) -> Batch:
    """The batch of a step: a function of the seed and the step alone."""
    rng = np.random.default_rng([args.seed, step, 1])
    seeds = scenes.training_seeds(args.seed, step, args.rooms)
    poses = scenes.sample_poses(seeds, VIEWS)
    order = np.stack([rng.permutation(VIEWS) for _ in seeds])
    poses = np.take_along_axis(poses, order[..., None], 1)
    if args.device == "cuda":
        images = scenes.render_on_gpu(seeds, poses, args.size)
    else:
        images = torch.from_numpy(scenes.render(seeds, poses, args.size))
    count = int(rng.choice(CONTEXTS, p=CONTEXT_ODDS))
    return Batch(step, count, images, torch.from_numpy(poses).to(args.device))


class Batches:
    """Batches in order, the next one rendered while this one is trained on."""

    def __init__(self, args: argparse.Namespace):
        self._args = args
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def get(self, step: int) -> Batch:
        if self._args.device == "cuda":  # the same stream: nothing to overlap
            return make_batch(self._args, step)
        if self._next is None or self._next[0] != step:
            self._next = step, self._pool.submit(make_batch, self._args, step)
        batch = self._next[1].result()
        self._next = step + 1, self._pool.submit(make_batch, self._args, step + 1)
        return batch


def draw_times(shape: torch.Size, generator: torch.Generator, device: str) -> Tensor:
    """Times (B, T): those that 1, 2 and 4 equal steps visit, and some between them."""
    named = torch.tensor([1.0, 1.0, 0.75, 0.5, 0.5, 0.25], device=device)
    pick = torch.randint(len(named), shape, generator=generator, device=device)
    between = 0.05 + 0.95 * torch.rand(shape, generator=generator, device=device)
    rare = torch.rand(shape, generator=generator, device=device) < 0.2
    return torch.where(rare, between, named[pick])


def loss_of(x0: Tensor, wanted: Tensor, t: Tensor) -> Tensor:
    """Squares and absolute values of the error, weighted by 1/t² down to t = 0.3."""
    error = x0 - wanted
    weight = t.clamp(min=0.3) ** -2
    return ((error.square().mean((2, 3)) + 0.1 * error.abs().mean((2, 3))) * weight).mean()


class Trainer:
    command = "python -m tools.rooms.train"
    samplers: ClassVar[dict[str, Table]] = {str(n): flow_table(n) for n in STEPS}

    def __init__(self, args: argparse.Namespace, model: Frames):
        self.args, self.model = args, model.to(args.device)
        self.forward = torch.compile(model, dynamic=False) if args.device == "cuda" else model
        self.trained = list(model.parameters())
        named = dict(model.named_parameters())
        matrices = {n for n, p in named.items() if p.ndim == 2 and n.startswith("blocks.")}
        matrices -= {n for n in matrices if n.endswith("modulation")}
        self.optimisers = [
            Muon([p for n, p in named.items() if n in matrices], lr=args.rate),
            torch.optim.AdamW(
                [p for n, p in named.items() if n not in matrices],
                lr=args.rate * ADAM_SHARE,
                betas=(0.9, 0.99),
                weight_decay=0.0,
            ),
        ]
        self.average = {name: p.detach().clone() for name, p in named.items()}
        self.workers = ThreadPoolExecutor(
            args.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        self.step, self.targets, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, Any]] = []

    def train_step(self, batch: Batch, progress: float) -> float:
        """One update; progress from 0 to 1 is how much of the run is over."""
        context, wanted, cameras, generator = self._inputs(batch, progress > ROLL_OUT_FROM)
        t = draw_times(wanted.shape[:2], generator, self.args.device)
        noise = torch.randn(wanted.shape, generator=generator, device=self.args.device)
        noisy = torch.lerp(wanted, noise, t[..., None, None])
        (loss,) = self._gradients(context, noisy, t, cameras, wanted)
        self._update(progress)
        self._count(wanted)
        return loss

    def figures(self) -> dict[str, float]:
        """What a report says besides the loss."""
        return {}

    def _inputs(
        self, batch: Batch, roll_out: bool
    ) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Context and wanted frames as tokens, their cameras, and the batch's source of noise."""
        k, device = batch.context_count, self.args.device
        seed = np.random.SeedSequence([self.args.seed, batch.step, 2]).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(seed[0]))
        tokens = self.model.tokens(batch.images.to(device))
        cameras = projections(batch.poses, scenes.FOCAL)
        context, wanted = tokens[:, :k], tokens[:, k:]
        if k > 1 and roll_out and batch.step % 10 < 10 * ROLL_OUT_SHARE:
            context = self._rolled_out(context, cameras[:, :k], generator)
        return self._noisy_context(context, generator), wanted, cameras, generator

    def _count(self, wanted: Tensor) -> None:
        self.step += 1
        self.targets += wanted.shape[0] * wanted.shape[1]

    def _gradients(self, *batch: Tensor) -> list[float]:
        """Sets the gradients of the batch; parts of it go to the threads as these come free.

        Small parts stay in a core's cache, and a thread that is held up by other work on the
        machine holds up little. The sum is taken in the order of the parts.
        """
        if self.args.device == "cuda":
            results = [self._part(*batch)]
        else:
            results = list(self.workers.map(self._part, *(x.split(PART) for x in batch)))
        for i, p in enumerate(self.trained):
            p.grad = torch.stack([gradients[i] for _, gradients in results]).mean(0)
        return torch.stack([figures for figures, _ in results]).mean(0).tolist()

    def _part(
        self, context: Tensor, noisy: Tensor, t: Tensor, cameras: Tensor, wanted: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss (1,) and gradients of some of the rooms."""
        loss = loss_of(self._predict(self.forward, context, noisy, t, cameras), wanted, t)
        return loss.detach()[None], torch.autograd.grad(loss, self.trained)

    def _predict(self, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        cuda = self.args.device == "cuda"
        with torch.autocast(self.args.device, torch.bfloat16, enabled=cuda):
            return forward(*inputs).float()

    def _noisy_context(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """Half of the frames get some noise: what a walk feeds back is not clean either."""
        shape, device = context.shape[:2], context.device
        level = 0.15 * torch.rand(shape, generator=generator, device=device)
        level *= torch.rand(shape, generator=generator, device=device) < 0.5
        noise = torch.randn(context.shape, generator=generator, device=device)
        return context + level[..., None, None] * noise

    def _rolled_out(self, context: Tensor, cameras: Tensor, generator: torch.Generator) -> Tensor:
        """The last context frame as the model itself sees it from the others."""
        noise = torch.randn(context[:, :1].shape, generator=generator, device=context.device)
        with torch.autocast(context.device.type, torch.bfloat16, enabled=context.is_cuda):
            own = sample(self.model, context[:, :-1], noise, cameras, self.samplers["2"])
        return torch.cat([context[:, :-1], own.clamp(-1, 1)], 1)

    def _update(self, progress: float) -> None:
        share = min(1.0, (self.step + 1) / WARM_UP) * max(0.01, 1 - progress)
        for optimiser, base in zip(self.optimisers, (1.0, ADAM_SHARE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = self.args.rate * base * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        keep = min(0.998, 1 - 1 / (self.step / 10 + 2))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self.average[name].lerp_(p, 1 - keep)

    def averaged(self) -> Frames:
        """A copy of the model with the averaged weights."""
        copy = Frames(self.model.config).to(self.args.device)
        copy.load_state_dict(self.average)
        return copy.requires_grad_(False)

    def state(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "samplers": self.samplers,
            "config": self.model.config._asdict(),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "targets": self.targets,
            "seconds": self.seconds,
            "log": self.log,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average = {n: value.to(self.args.device) for n, value in state["average"].items()}
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.targets = state["step"], state["targets"]
        self.seconds, self.log = state["seconds"], state["log"]


def save_atomically(path: Path, state: dict[str, Any]) -> None:
    scratch = path.with_suffix(".tmp")
    with open(scratch, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def open_model(path: Path) -> Frames:
    """The network of a model file, or of a checkpoint with a trainer's names."""
    with tempfile.TemporaryDirectory() as folder:
        readable = path
        if b'"rtfm"' not in path.read_bytes()[: 1 << 16]:
            readable = Path(folder) / "model.safetensors"
            convert(path, readable, name="init", licence="none", dtype="float32")
        plain, _ = reference.load(str(readable))
    model = Frames(plain.config)
    model.load_state_dict(plain.state_dict())
    return model


def make_trainer(args: argparse.Namespace, kind: type[Trainer]) -> Trainer:
    """From the checkpoint in --out, else from --init, else from nothing."""
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer = kind(args, Frames(Config(**state["config"])))
        trainer.load_state(state)
        return trainer
    if args.init:
        return kind(args, open_model(args.init))
    size, width, mlp = args.size, args.width, 4 * args.width
    model = Frames(Config(size, size, 8, width, args.layers, width // 64, mlp))
    torch.manual_seed(args.seed)
    initialise(model)
    return kind(args, model)


class Run:
    """The loop around the trainer: progress, reports, checkpoints."""

    def __init__(self, args: argparse.Namespace, trainer: Trainer):
        self.args, self.trainer = args, trainer
        self.began = time.monotonic() - trainer.seconds
        self.saved = self.evaluated = trainer.seconds

    def progress(self) -> float:
        """From 0 to 1, by steps where their number is given, else by the clock."""
        if self.args.steps:
            return self.trainer.step / self.args.steps
        return self.trainer.seconds / (3600 * self.args.hours)

    def report(self, figures: dict[str, Any]) -> None:
        t = self.trainer
        entry = {"step": t.step, "targets": t.targets, "seconds": round(t.seconds), **figures}
        t.log.append(entry)
        print(json.dumps(entry), flush=True)

    def evaluate(self) -> None:
        if self.args.evaluate:
            self.report({"held_out": evaluate(self.trainer.averaged(), self.trainer.samplers)})
        self.trainer.seconds = self.evaluated = time.monotonic() - self.began

    def save(self) -> None:
        save_atomically(self.args.out / "checkpoint.pt", self.trainer.state())
        self.saved = self.trainer.seconds

    def train(self) -> None:
        batches, losses = Batches(self.args), []
        if self.trainer.step == 0:
            self.evaluate()
        while self.progress() < 1:
            batch = batches.get(self.trainer.step)
            losses.append(self.trainer.train_step(batch, self.progress()))
            self.trainer.seconds = time.monotonic() - self.began
            if self.trainer.step % 25 == 0:
                self.report({"loss": round(float(np.mean(losses)), 5), **self.trainer.figures()})
                losses = []
            if self.trainer.seconds - self.saved > SAVE_EVERY:
                self.save()
            if self.trainer.seconds - self.evaluated > EVALUATE_EVERY:
                self.evaluate()
        self.save()


def run(args: argparse.Namespace, kind: type[Trainer] = Trainer) -> Trainer:
    """Trains until the time is over and writes what card.export writes."""
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.device == "cuda"
    trainer = make_trainer(args, kind)
    args.size = trainer.model.config.height
    Run(args, trainer).train()
    if trainer.step == 0:
        raise SystemExit(
            f"expected a run of one step at least, got none in {args.hours:g} hours, which the "
            "first evaluation took; give more --hours, or --no-evaluate"
        )
    card.export(trainer.averaged(), trainer.state(), args)
    return trainer


def options(description: str) -> argparse.ArgumentParser:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and results")
    parser.add_argument("--init", type=Path, help="model file or fp32 checkpoint to begin with")
    parser.add_argument("--hours", type=float, default=8.0, help="of wall-clock time, in all")
    parser.add_argument("--steps", type=int, help="a number of steps in place of hours")
    parser.add_argument("--size", type=int, default=64, help="image side, a multiple of 8")
    parser.add_argument("--width", type=int, default=256, help="of the network, a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rooms", type=int, default=16, help="rooms a batch, 8 views each")
    parser.add_argument("--rate", type=float, default=0.02, help="Muon's highest learning rate")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-evaluate", dest="evaluate", action="store_false")
    return parser


def parse(
    arguments: list[str] | None = None, parser: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    parser = parser or options(__doc__.splitlines()[0])
    args = parser.parse_args(arguments)
    if args.rooms < PART or args.rooms % PART:
        parser.error(f"--rooms: expected a multiple of {PART}, got {args.rooms}")
    if args.hours <= 0 or (args.steps is not None and args.steps < 1):
        parser.error("--hours, --steps: expected more than none")
    return args


if __name__ == "__main__":
    run(parse())
