# SPDX-License-Identifier: Apache-2.0
"""Everybody who computes a problem, each from its folder alone and each at its best settings.

A builder returns a function of no arguments that makes one write pass, and one that turns its
result into a float32 array; what it raises becomes its row. Peers are imported by their builders:
whoever is not installed is a row with that reason.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Contestant = tuple[Callable[[], Any], Callable[[Any], NDArray[np.float32]]]
INPUTS = ("x", "table", "keys", "values")


def arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """What `problem.write_arrays` wrote."""
    with np.load(folder / "arrays.npz") as file:
        return dict(file)


def rtfm(folder: Path, precision: str, threads: int) -> Contestant:
    """Through the tests' module: the public API has no write pass alone."""
    import rtfm_rt

    # named, because that module would emulate what is missing
    device = rtfm_rt.Model(folder / "model.safetensors", "cpu", precision).device
    from rtfm_rt import _testing

    a = arrays(folder)
    write = _testing.WritePass(
        str(folder / "model.safetensors"),
        device,
        precision,
        threads,
        a["images"],
        a["transforms"],
        a["x"],
    )
    t = float(a["t"])
    return lambda: write.run(t), lambda y: y


def module(folder: Path, precision: str) -> tuple[Any, list[Any]]:
    """The PyTorch module and its inputs, both of that precision."""
    import torch

    from benchmarks.peers.network import WritePass
    from rtfm_rt.reference import load

    dtype = getattr(torch, precision)
    network = WritePass(load(str(folder / "model.safetensors"), torch.float32)[0]).eval().to(dtype)
    a = arrays(folder)
    return network, [torch.from_numpy(a[name]).to(dtype) for name in INPUTS]


def torch_eager(folder: Path, precision: str, threads: int) -> Contestant:
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network, inputs = module(folder, precision)
    return lambda: network(*inputs), lambda y: y.float().numpy()


def torch_compile(folder: Path, precision: str, threads: int) -> Contestant:
    """Weights frozen, so that oneDNN packs them; every matrix product autotuned."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network, inputs = module(folder, precision)
    options: dict[str, Any] = {
        "freezing": True,
        "max_autotune": True,
        "max_autotune_gemm_backends": "CPP,ATEN",
    }
    compiled = torch.compile(network, dynamic=False, options=options)
    return lambda: compiled(*inputs), lambda y: y.float().numpy()


def export_onnx(folder: Path, threads: int) -> Path:
    """The float32 write pass, made once: the faster of two exports, with norms and attention as
    single operators and without."""
    chosen = folder / "chosen.txt"
    if not chosen.exists():
        import torch

        network, inputs = module(folder, "float32")
        seconds = {}
        for opset in (20, 23):
            path = folder / f"opset{opset}.onnx"
            torch.onnx.export(
                network,
                tuple(inputs),
                str(path),
                input_names=list(INPUTS),
                output_names=["x0"],
                opset_version=opset,
                dynamo=True,
                external_data=True,
                verbose=False,
            )
            run, _ = onnx_session(path, arrays(folder), threads)
            seconds[path.name] = min(timeit.repeat(run, number=1, repeat=15))
        chosen.write_text(min(seconds, key=lambda name: seconds[name]))
    return folder / chosen.read_text()


def onnx_session(path: Path, a: dict[str, NDArray[Any]], threads: int) -> Contestant:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    held = {name: ort.OrtValue.ortvalue_from_numpy(a[name]) for name in INPUTS}
    held["x0"] = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(a["x"]))
    for name in INPUTS:
        binding.bind_ortvalue_input(name, held[name])
    binding.bind_ortvalue_output("x0", held["x0"])
    return lambda: session.run_with_iobinding(binding), lambda _: held["x0"].numpy()


def onnx_runtime(folder: Path, precision: str, threads: int) -> Contestant:
    path = export_onnx(folder, threads)
    if precision == "int8":  # weights and, at run time, activations
        path, source = folder / "int8.onnx", path
        if not path.exists():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=["Gemm", "MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
    return onnx_session(path, arrays(folder), threads)


def convert_openvino(folder: Path) -> Path:
    """`model.xml` of the float32 write pass, made once."""
    import openvino as ov

    path = folder / "model.xml"
    if not path.exists():
        network, inputs = module(folder, "float32")
        shapes = [tuple(i.shape) for i in inputs]
        converted = ov.convert_model(network, example_input=tuple(inputs), input=shapes)
        ov.save_model(converted, path, compress_to_fp16=False)
    return path


def openvino(folder: Path, precision: str, threads: int) -> Contestant:
    """At reduced precision the context comes in that precision, as in a cache of it."""
    import openvino as ov

    kind = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[precision]
    core = ov.Core()
    if {"bf16": "BF16", "f16": "FP16"}.get(kind, "FP32") not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise RuntimeError(f"OpenVINO offers no {precision} on this CPU")
    model = core.read_model(convert_openvino(folder))
    element = getattr(ov.Type, kind)
    steps = ov.preprocess.PrePostProcessor(model)
    for i in (2, 3):
        steps.input(i).tensor().set_element_type(element)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": kind,
    }
    request = core.compile_model(steps.build(), "CPU", settings).create_infer_request()
    a = arrays(folder)
    for i, name in enumerate(INPUTS):
        request.set_input_tensor(i, tensor(ov, a[name], element if i >= 2 else ov.Type.f32))
    return request.infer, lambda _: np.array(request.get_output_tensor(0).data, np.float32)


def tensor(ov: Any, values: NDArray[Any], element: Any) -> Any:
    result = ov.Tensor(element, ov.Shape(list(values.shape)))
    if element == ov.Type.bf16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        result.data.view(np.uint16)[...] = rounded.astype(np.uint16)
    else:
        result.data[...] = values
    return result


Builder = Callable[[Path, str, int], Contestant]
BUILDERS: dict[str, tuple[Builder, tuple[str, ...]]] = {
    "rtfm_rt": (rtfm, ("float32", "bfloat16", "int8")),
    "PyTorch eager": (torch_eager, ("float32", "bfloat16", "float16")),
    "torch.compile": (torch_compile, ("float32", "bfloat16", "float16")),
    "ONNX Runtime": (onnx_runtime, ("float32", "int8")),
    "OpenVINO": (openvino, ("float32", "bfloat16", "float16")),
}
NAMES = [f"{name} {p}" for name, (_, precisions) in BUILDERS.items() for p in precisions]


def build(name: str, folder: Path, threads: int) -> Contestant:
    """name: one of NAMES."""
    family, precision = name.rsplit(" ", 1)
    return BUILDERS[family][0](folder, precision, threads)
