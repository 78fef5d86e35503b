# SPDX-License-Identifier: Apache-2.0
"""The work of one step in PyTorch, as fast as it goes there: what cuda_steps.py is compared with.

    python benchmarks/cuda_torch.py [--device cuda] [--quick] [--json FILE]

The models of cuda_steps.py with weights of their own: gather, denoising, decoding, the copy to the
host and the read pass of the new frame, in bfloat16, compiled, fused attention, one CUDA graph. Not
in it: choosing the context and remembering frames. On a CPU it is neither compiled nor recorded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
import torch.nn.functional as F
from cuda_steps import CASES, QUICK, Case, dimensions

from rtfm_rt.reference import Block, FrameDiT, rms

Tensor = torch.Tensor


def lifted(page: Tensor, moves: Tensor) -> Tensor:
    """page [P, 2, H, N, d] in the query's camera: [2, H, P·N, d]. moves [P, 4, 4]."""
    half = page.shape[-1] // 2
    groups = page[..., :half].unflatten(-1, (half // 4, 4))
    moved = torch.einsum("pkhngi,pji->pkhngj", groups, moves).flatten(-2)
    return torch.cat([moved, page[..., half:]], -1).permute(1, 2, 0, 3, 4).flatten(2, 3)


def write_block(block: Block, angles: Tensor, h: Tensor, m: Tensor, context: Tensor) -> Tensor:
    """One block over its own tokens and the context [2, H, keys, d]."""
    q, k, v = block.split(rms(h) * (1 + m[1]) + m[0], angles)
    k, v = torch.cat([k, context[0]], 1), torch.cat([v, context[1]], 1)
    return block.finish(h, F.scaled_dot_product_attention(q[None], k[None], v[None])[0], m)


def read_block(block: Block, angles: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """One block over its own tokens alone, and its page [2, H, N, d]."""
    q, k, v = block.split(rms(h) * (1 + m[1]) + m[0], angles)
    o = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    return block.finish(h, o, m), torch.stack([k, v])


class Step:
    """Everything that a step computes, from and to memory that stays where it is."""

    def __init__(self, case: Case, device: str):
        self.case = case
        config = dimensions(case)
        with torch.device(device):
            self.model = FrameDiT(config).to(torch.bfloat16).requires_grad_(False)
            n, d = case.rows * case.cols, case.width // config.heads
            page = (case.layers, case.context, 2, config.heads, n, d)
            self.pages = torch.randn(page, dtype=torch.bfloat16)
            self.new_page = torch.zeros(case.layers, *page[2:], dtype=torch.bfloat16)
            self.moves = torch.eye(4, dtype=torch.bfloat16).repeat(case.context, 1, 1)
            self.tables = 0.1 * torch.randn(case.layers, 6, case.width, dtype=torch.bfloat16)
        compiled = torch.compile if device == "cuda" else lambda f: f
        self.lifted, self.write, self.read = map(compiled, (lifted, write_block, read_block))

    def __call__(self) -> Tensor:
        """The frame [height, width, 3] uint8."""
        model, angles, blocks = self.model, self.model.angles, list(self.model.blocks)
        context = [self.lifted(page, self.moves) for page in self.pages]
        x = torch.randn(len(angles), model.out.out_features, device=angles.device)
        for i in range(self.case.steps):
            h = model.embed(x.bfloat16())
            for block, m, keys in zip(blocks, self.tables, context, strict=True):
                h = self.write(block, angles, h, m, keys)
            share = (i + 1) / self.case.steps
            x = (1 - share) * x + share * model.out(model.final(h)).float()
        frame = model.image(x)
        h = model.embed(model.tokens(frame).bfloat16())
        for block, m, page in zip(blocks, self.tables, self.new_page, strict=True):
            h, made = self.read(block, angles, h, m)
            page.copy_(made)
        return frame


def recorded(step: Step) -> Callable[[], Any]:
    """A call that replays the step and waits for its frame on the host."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        frame = step()
    host = torch.empty(frame.shape, dtype=frame.dtype, pin_memory=True)

    def call() -> None:
        graph.replay()
        host.copy_(frame, non_blocking=True)
        torch.cuda.synchronize()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for name, case in (QUICK if args.quick else CASES).items():
        with torch.inference_mode():
            step = Step(case, args.device)
            call = recorded(step) if args.device == "cuda" else step
            seconds = []
            for i in range(args.frames + 10):
                start = time.perf_counter()
                call()
                if i >= 10:
                    seconds.append(time.perf_counter() - start)
        results[name] = {
            "steps_per_second": round(len(seconds) / sum(seconds), 3),
            "step": timing.summary(np.array(seconds)),
        }
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        del step, call
        if args.json:  # at once: the next one may run out of time
            about = {"torch": torch.__version__, "device": args.device, "frames": args.frames}
            args.json.write_text(json.dumps({**about, "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
