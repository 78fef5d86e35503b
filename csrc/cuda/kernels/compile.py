# SPDX-License-Identifier: Apache-2.0
"""Compiles the Triton kernels beside this file to the cubins that the CUDA backend embeds.

    python csrc/cuda/kernels/compile.py            # writes cubins/
    python csrc/cuda/kernels/compile.py --check    # compiles anew and compares; writes nothing

Needs the Triton of `TRITON`, and neither a GPU nor a driver nor PyTorch. A build of the package
reads what is checked in and needs no Triton: the cubins, cubins/cubins.inc (a table of them for the
C++ that launches them) and cubins/manifest.json (what each was made of).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import attention  # noqa: E402
import matmul  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

SOURCES = ("attention.py", "matmul.py", "compile.py")
TRITON = (
    "3.6.0"  # its ptxas is older than CUDA 13.0, so that every driver from 580 on loads the code
)
POINTERS = {  # by argument name; all others are 32-bit integers
    "partial": "*fp32", "lse": "*fp32", "bias": "*fp32", "gate": "*fp32", "x_scale": "*fp32",
    "w_scale": "*fp32", "scale": "*fp32", "counters": "*i32", "y_operand": "*bf16",
}  # fmt: skip
DIVISORS = {"x_stride": 16, "w_stride": 16, "y_stride": 16, "q_stride": 16, "dim": 8}  # of integers


class Variant(NamedTuple):
    """One kernel with its compile-time sizes, for some architectures."""

    name: str
    kernel: Any
    sizes: dict[str, int]
    types: dict[str, str]  # of the arguments that POINTERS does not name
    warps: int
    stages: int
    archs: tuple[int, ...]


def attention_variant(dim: int, bm: int, bn: int, even: bool, warps: int, stages: int,
                      archs: tuple[int, ...]) -> Variant:  # fmt: skip
    name = f"attention_{'even' if even else 'any'}_d{dim}_m{bm}_n{bn}"
    sizes = {"D": dim, "BM": bm, "BN": bn, "EVEN": int(even)}
    types = {"q": "*bf16", "context": "*bf16", "y": "*bf16"}
    return Variant(name, attention.attention, sizes, types, warps, stages, archs)


def attention_tma_variant(dim: int, bm: int, bn: int, warps: int, stages: int,
                          archs: tuple[int, ...]) -> Variant:  # fmt: skip
    sizes = {"D": dim, "BM": bm, "BN": bn}
    types = {"q": f"tensordesc<bf16[{bm}, {dim}]>", "context": f"tensordesc<bf16[{bn}, {dim}]>",
             "y": "*bf16"}  # fmt: skip
    name = f"attention_tma_d{dim}_m{bm}_n{bn}"
    return Variant(name, attention.attention_tma, sizes, types, warps, stages, archs)


def matmul_variant(dtype: str, bm: int, bn: int, bk: int, tma: bool, warps: int, stages: int,
                   archs: tuple[int, ...]) -> Variant:  # fmt: skip
    sizes = {"BM": bm, "BN": bn, "BK": bk, "SCALED": int(dtype == "fp8e4nv")}
    types = {"x": f"*{dtype}", "w": f"*{dtype}", "y": "*fp32"}
    if tma:
        types |= {"x": f"tensordesc<{dtype}[{bm}, {bk}]>", "w": f"tensordesc<{dtype}[{bn}, {bk}]>"}
    kernel = matmul.matmul_tma if tma else matmul.matmul
    name = f"matmul_{'fp8' if dtype == 'fp8e4nv' else 'bf16'}_m{bm}_n{bn}"
    return Variant(name, kernel, sizes, types, warps, stages, archs)


MMA = (80, 89, 120)  # matrix instructions of one warp, operands by cp.async
TMA = (90, 100)  # matrix instructions of a warpgroup or of an SM, operands by tensor map
ALL = MMA + TMA
FP8_MMA = (89, 120)
VARIANTS = [
    attention_variant(32, 64, 64, False, 4, 2, ALL),
    attention_variant(64, 64, 64, False, 4, 2, ALL),
    attention_variant(128, 64, 64, False, 4, 2, ALL),
    attention_variant(256, 64, 32, False, 8, 2, ALL),
    attention_variant(64, 128, 64, True, 8, 2, MMA),
    attention_variant(128, 128, 64, True, 8, 2, MMA),
    attention_tma_variant(64, 128, 128, 8, 2, TMA),
    attention_tma_variant(128, 128, 64, 8, 3, (90,)),  # 128 keys leave no registers to overlap in
    attention_tma_variant(128, 128, 128, 8, 2, (100,)),
    matmul_variant("bf16", 64, 64, 32, False, 4, 4, MMA),
    matmul_variant("bf16", 128, 128, 64, False, 8, 3, MMA),
    matmul_variant("bf16", 64, 64, 64, True, 4, 4, TMA),
    matmul_variant("bf16", 64, 128, 64, True, 4, 4, TMA),
    matmul_variant("bf16", 128, 128, 64, True, 8, 4, TMA),
    matmul_variant("fp8e4nv", 64, 64, 128, False, 4, 3, FP8_MMA),
    matmul_variant("fp8e4nv", 128, 128, 128, False, 8, 2, FP8_MMA),
    matmul_variant("fp8e4nv", 64, 64, 128, True, 4, 4, TMA),
    matmul_variant("fp8e4nv", 64, 128, 128, True, 4, 4, TMA),
    matmul_variant("fp8e4nv", 128, 128, 128, True, 8, 4, TMA),
    Variant("quantize_rows", matmul.quantize_rows, {"BLOCK": 1024},
            {"x": "*bf16", "q": "*fp8e4nv"}, 4, 2, (89, 90, 100, 120)),
]  # fmt: skip


def build(variant: Variant, arch: int) -> tuple[bytes, int]:
    """The cubin, and the bytes of shared memory that its launch must ask for."""
    names = variant.kernel.arg_names
    signature = {n: "constexpr" if n in variant.sizes else
                 variant.types.get(n) or POINTERS.get(n) or "i32" for n in names}  # fmt: skip
    divisors = {i: 16 if signature[n].startswith("*") else DIVISORS.get(n)
                for i, n in enumerate(names)}  # fmt: skip
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs={(names.index(n),): size for n, size in variant.sizes.items()},
        attrs={(i,): [["tt.divisibility", d]] for i, d in divisors.items() if d},
    )
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    meta = made.metadata

    # What the launching code takes for granted.
    assert meta.num_warps == variant.warps and meta.name == variant.kernel.__name__
    assert not meta.global_scratch_size and not meta.profile_scratch_size
    boxes = [t for t in variant.types.values() if t.startswith("tensordesc")]
    for box, tensor_map in zip(boxes, meta.tensordesc_meta or [], strict=True):
        rows = int(box.split("[")[1].split(",")[0])
        columns = (
            128 // tensor_map["elem_size"]
        )  # 128 bytes wide, swizzle CU_TENSOR_MAP_SWIZZLE_128B
        assert tensor_map["block_size"] == [rows, columns] and tensor_map["swizzle"] == 3
    return made.asm["cubin"], meta.shared


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_like(variant: Variant, arch: int, there: bytes | None) -> tuple[bytes, int]:
    """The same, as `there` if it can be.

    Triton's passes for sm_100 order some things by address, so that one kernel has two forms, and
    which one comes out changes from run to run. For the others the first is the only one.
    """
    for _ in range(40 if arch == 100 and there else 1):
        made = build(variant, arch)
        if made[0] == there:
            break
    return made


def build_all(there: dict[str, bytes]) -> dict[str, bytes]:
    """Every file of the folder cubins. there: cubins to arrive at where a kernel has two forms."""
    files, table, hashes = {}, [], {}
    for variant in VARIANTS:
        size = variant.sizes
        kind = variant.name.split("_d")[0].split("_m")[0]
        depth = size.get("D") or size.get("BK") or 0
        for arch in variant.archs:
            stem = f"{variant.name}_sm{arch}"
            cubin, shared = build_like(variant, arch, there.get(f"{stem}.cubin"))
            files[f"{stem}.cubin"] = cubin
            hashes[stem] = digest(cubin)
            row = [stem, kind, variant.kernel.__name__, arch, size.get("BM", 0), size.get("BN", 0),
                   depth, variant.warps, shared]  # fmt: skip
            table.append(f"CUBIN({', '.join(map(str, row))})")
            print(f"{stem:40} {len(cubin):6} bytes, {shared:6} of shared memory")
    comment = "// By compile.py: name, kind, kernel, sm, BM, BN, D or BK, warps, shared memory.\n"
    licence = "// SPDX-License-" + "Identifier: Apache-2.0\n"
    files["cubins.inc"] = (licence + comment + "\n".join(table) + "\n").encode()
    sources = {name: digest((HERE / name).read_bytes()) for name in SOURCES}
    manifest = {"triton": triton.__version__, "sources": sources, "cubins": hashes}
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the files; write nothing"
    )
    check = parser.parse_args().check
    if triton.__version__ != TRITON:
        print(f"compile.py: expected Triton {TRITON}, got {triton.__version__}; install that one")
        return 1
    folder = HERE / "cubins"
    folder.mkdir(exist_ok=True)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # line tables treble a cubin, and hold paths
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        files = build_all(there if check else {})
    stale = sorted(name for name in files.keys() | there if files.get(name) != there.get(name))
    print(
        f"{sum(map(len, files.values())) / 1e6:.2f} MB in {len(files)} files, {len(stale)} differ"
    )
    if check:
        print("".join(f"differs: {name}; run compile.py\n" for name in stale), end="")
        return bool(stale)
    for name in stale:
        if name in files:
            (folder / name).write_bytes(files[name])
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
