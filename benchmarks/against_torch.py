# SPDX-License-Identifier: Apache-2.0
"""A whole frame in rtfm_rt against PyTorch eager: same weights, same pages, one interleaved run.

    python benchmarks/against_torch.py [--rounds 20] [--json benchmarks/results/FILE.json]

Both sides gather their pages for the pose once and run every denoising step of the model's default
table; attention in PyTorch is its fused one. Not in the numbers: reading the model, the read pass
of the context frames, and on PyTorch's side the choice of the context and the image codec, which
rtfm_rt pays for. Needs the `test` extra.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
import torch.nn.functional as F
from random_model import poses, shapes

import rtfm_rt
from rtfm_rt.bench import machine
from rtfm_rt.reference import Block, View, lift, load, projection, rms


class Eager:
    """The reference network as one would write it for speed in PyTorch eager."""

    def __init__(self, path: str, dtype: torch.dtype):
        self.model, self.manifest = load(path, torch.float32)
        self.table = self.manifest["samplers"][str(self.manifest["steps"])]
        self.tables = {
            t: [self.model.modulation(t) + block.modulation for block in self.model.blocks]
            for t in [row[0] for row in self.table]
        }
        self.model = self.model.to(dtype)
        self.tables = {t: [m.to(dtype) for m in ms] for t, ms in self.tables.items()}
        self.dtype = dtype

    def gather(self, pages: list, views: list[View], query: View) -> list[tuple[Any, Any]]:
        """K and V of all pages in the query's camera, per layer (H, C·N, d)."""
        scale = self.model.config.world_scale
        moves = [
            projection(query, scale) @ torch.linalg.inv(projection(view, scale)) for view in views
        ]
        return [
            tuple(
                torch.cat(
                    [lift(m, page[layer][i]) for m, page in zip(moves, pages, strict=True)], 1
                )
                for i in (0, 1)
            )
            for layer in range(len(self.model.blocks))
        ]

    def block(self, block: Block, h, table, keys, values):
        a = rms(h) * (1 + table[1]) + table[0]
        q, k, v = block.split(a, self.model.angles)
        k, v = torch.cat([k, keys], 1), torch.cat([v, values], 1)
        o = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return block.finish(h, o, table)

    @torch.inference_mode()
    def frame(self, pages: list, views: list[View], query: View) -> torch.Tensor:
        context = self.gather(pages, views, query)
        x = torch.randn(self.model.rows * self.model.cols, self.model.out.out_features)
        for t, a, b, _ in self.table:
            h = self.model.embed(x.to(self.dtype))
            for block, table, (keys, values) in zip(
                self.model.blocks, self.tables[t], context, strict=True
            ):
                h = self.block(block, h, table, keys, values)
            x = a * x + b * self.model.out(self.model.final(h)).float()
        return x


def contestants(path: str, pages: int, threads: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    calls: dict[str, Any] = {}
    where = poses(pages + 1)
    height, width = rtfm_rt.Session(path, threads=1).image_size
    images = rng.integers(0, 256, (pages, height, width, 3), np.uint8)
    for precision in ("float32", "bfloat16"):
        try:
            session = rtfm_rt.Session(
                path, precision=precision, threads=threads, context=pages, commit_below=0
            )
        except rtfm_rt.DeviceError:
            continue  # this CPU has no bfloat16 tier: not measured
        for image, pose in zip(images, where, strict=False):
            session.observe(image, pose)
        calls[f"rtfm_rt {precision} ({session.device})"] = lambda s=session: s.step(where[-1])
        eager = Eager(path, getattr(torch, precision))
        fx, fy = session.intrinsics
        views = [View(torch.from_numpy(p), fx, fy) for p in where]
        with torch.inference_mode():
            book = [eager.model.read(eager.model.tokens(torch.from_numpy(i))) for i in images]
        calls[f"torch eager {precision}"] = lambda e=eager, b=book, v=views: e.frame(
            b, v[:-1], v[-1]
        )
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    for name, path, pages in shapes():
        calls = contestants(path, pages, args.threads)
        times = timing.interleave(calls, args.rounds)
        print(f"\n{name}, {pages} pages")
        results[name] = {}
        for call, seconds in times.items():
            row = timing.summary(seconds)
            results[name][call] = row
            print(
                f"  {call:36} p50 {row['p50_ms']:8.2f}  p95 {row['p95_ms']:8.2f}"
                f"  p99 {row['p99_ms']:8.2f} ms"
            )
        names = list(times)
        for ours, theirs in zip(names[::2], names[1::2], strict=True):
            ratio = float(np.median(times[theirs]) / np.median(times[ours]))
            results[name][f"{theirs} / {ours}"] = round(ratio, 2)
            print(f"  {theirs} / {ours}: {ratio:.2f}x")
    if args.json:
        about = {
            **machine(),
            "date": time.strftime("%Y-%m-%d"),
            "rtfm_rt": rtfm_rt.__version__,
            "torch": torch.__version__,
            "threads": args.threads,
            "command": f"python benchmarks/against_torch.py --rounds {args.rounds}"
            f" --threads {args.threads}",
        }
        args.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
