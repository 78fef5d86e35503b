# SPDX-License-Identifier: Apache-2.0
"""The reader of model files: one valid tiny file, and everything that must not be believed."""

import copy
import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rtfm_rt

MANIFEST = {
    "format": 1,
    "family": "frame_dit",
    "name": "tiny",
    "licence": "Apache-2.0",
    "source": {"file": "tiny.safetensors", "sha256": "0" * 64},
    "requires": [],
    "image": {"height": 8, "width": 16},
    "codec": {"kind": "patch", "patch": 4},
    **{"width": 16, "layers": 1, "heads": 2, "head_dim": 8, "mlp": 24},
    "camera": {"fx": 0.65, "fy": 0.7, "world_scale": 1.0},
    "steps": 2,
    "samplers": {"1": [[1, 0, 1, 0]], "2": [[1, 0.5, 0.5, 0], [0.5, 0, 1, 0]]},
    "retrieval": {"context": 4, "sinks": 1, "recent": 1, "near": 0.3, "far": 9, "commit_below": 1},
}
SHAPES = {
    "in.weight": [16, 48],
    "in.bias": [16],
    "time.0.weight": [16, 256],
    "time.0.bias": [16],
    "time.2.weight": [96, 16],
    "time.2.bias": [96],
    "blocks.0.modulation": [6, 16],
    "blocks.0.qkv.weight": [48, 16],
    "blocks.0.q_gain": [8],
    "blocks.0.k_gain": [8],
    "blocks.0.out.weight": [16, 16],
    "blocks.0.up.weight": [24, 16],
    "blocks.0.up.bias": [24],
    "blocks.0.down.weight": [16, 24],
    "blocks.0.down.bias": [16],
    "final.modulation": [2, 16],
    "out.weight": [48, 16],
    "out.bias": [48],
}
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES.values())
DTYPES = {"in.weight": "BF16", "out.weight": "F16"}  # the rest is F32
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def tiny_header(manifest: object = MANIFEST) -> dict:
    header, at = {"__metadata__": {"rtfm": json.dumps(manifest)}}, 0
    for name, shape in SHAPES.items():
        dtype = DTYPES.get(name, "F32")
        end = at + int(np.prod(shape)) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    return header


HEADER = tiny_header()
DATA = bytes(HEADER["out.bias"]["data_offsets"][1])
VALID_JSON = json.dumps(HEADER).encode()


def pack(header: object, data: bytes = DATA, length: int | None = None) -> bytes:
    """A file; `header` as an object or raw bytes, `length` when it should lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


VALID = pack(HEADER)


def edited(tensor: str, **fields: object) -> bytes:
    """The valid file with fields of one tensor replaced; None removes one."""
    header = copy.deepcopy(HEADER)
    for key, value in fields.items():
        header[tensor][key] = value
        if value is None:
            del header[tensor][key]
    return pack(header)


def with_text(old: str, new: str) -> bytes:
    """The valid file with the first `old` of the header's text replaced."""
    assert old.encode() in VALID_JSON
    return pack(VALID_JSON.replace(old.encode(), new.encode("latin-1"), 1))


def with_metadata(metadata: object) -> bytes:
    return pack({**HEADER, "__metadata__": metadata})


def with_number(tensor: str, bits: bytes) -> bytes:
    """The valid file with the last number of one tensor replaced."""
    end = HEADER[tensor]["data_offsets"][1]
    return pack(HEADER, DATA[: end - len(bits)] + bits + DATA[end:])


def without(tensor: str) -> bytes:
    """Laid out well, but one tensor is not there."""
    kept, at = {"__metadata__": HEADER["__metadata__"]}, 0
    for name in SHAPES.keys() - {tensor}:
        begin, end = HEADER[name]["data_offsets"]
        kept[name] = {**HEADER[name], "data_offsets": [at, at + end - begin]}
        at += end - begin
    return pack(kept, bytes(at))


def appended(name: str, dtype: str, shape: list, size: int) -> bytes:
    """The valid file with one more tensor at its end."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [len(DATA), len(DATA) + size]}
    return pack({**HEADER, name: entry}, DATA + bytes(size))


BIAS = '"in.bias": {"dtype": "F32", "shape": [16]'
OFFSETS = HEADER["in.bias"]["data_offsets"]
HUGE = [4194305, 4194305, 211106198978564]  # the product is small modulo 2^64

# name: (file, a part of the message)
HOSTILE = {
    "empty": (b"", "at least 8"),
    "seven bytes": (VALID[:7], "at least 8"),
    "length 0": (pack(b"", b""), "header of 2"),
    "length 7": (pack(HEADER, length=7), "JSON"),
    "length 2^63": (pack(HEADER, length=2**63), "header of 2"),
    "length 2^64-1": (pack(HEADER, length=2**64 - 1), "header of 2"),
    "length -8 modulo 2^64": (pack(HEADER, length=2**64 - 8), "header of 2"),
    "length file+1": (pack(HEADER, length=len(VALID) + 1), "header of 2"),
    "length one too long": (pack(HEADER, length=len(VALID_JSON) + 1), "JSON"),
    "length one too short": (pack(HEADER, length=len(VALID_JSON) - 1), "JSON"),
    "length file-8": (pack(HEADER, length=len(VALID) - 8), "JSON"),
    "zip": (b"PK\x03\x04\x14\x00\x00\x08" + bytes(99), "pickle"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00" + bytes(99), "pickle"),
    "text file": (b"not a model file at all\n" * 9, "header of 2"),
    "header not UTF-8": (with_text("in.bias", "in.b\xff\xfes"), "UTF-8"),
    "overlong UTF-8": (with_text("in.bias", "in.b\xc0\xafs"), "UTF-8"),
    "surrogate in UTF-8": (with_text("in.bias", "in.\xed\xa0\x80"), "UTF-8"),
    "lone surrogate": (with_text("in.bias", r"in.\ud800"), "surrogate"),
    "control character": (with_text("in.bias", "in.\x01bias"), "JSON"),
    "NUL in a name": (with_text("in.bias", r"in.bias\u0000"), "missing"),
    "not JSON": (pack(b"{" + b"x" * 100), "JSON"),
    "header is an array": (pack(b"[]", b""), "begins with '{'"),
    "header is a space first": (pack(b" " + VALID_JSON), "begins with '{'"),
    "two documents": (pack(VALID_JSON + b"{}"), "JSON"),
    "NUL padding": (pack(VALID_JSON + b"\0" * 8), "JSON"),
    "trailing comma": (pack(VALID_JSON[:-1] + b",}"), "JSON"),
    "comment": (pack(VALID_JSON + b"//"), "JSON"),
    "depth 10^5": (pack(b'{"a":' + b"[" * 100_000), "levels"),
    "depth 33": (pack(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", b""), "levels"),
    "a million values": (pack(b'{"a":[' + b"0," * 1_000_000 + b"0]}", b""), "values"),
    "no tensors": (pack({"__metadata__": HEADER["__metadata__"]}, b""), "missing"),
    "nothing": (pack({}, b""), "rtfm"),
    "duplicate tensor": (with_text('"in.bias"', '"in.weight"'), "twice"),
    "duplicate tensor, escaped": (with_text('"in.bias"', r'"in\u002eweight"'), "twice"),
    "duplicate metadata": (pack(b'{"__metadata__":{},' + VALID_JSON[1:]), "twice"),
    "duplicate field": (with_text(BIAS, BIAS + ', "dtype": "F32"'), "twice"),
    "metadata is a string": (with_metadata("x"), "expected an object"),
    "metadata is null": (with_metadata(None), "expected an object"),
    "metadata of numbers": (with_metadata({"rtfm": 1}), "strings only"),
    "no rtfm": (with_metadata({"format": "pt"}), "rtfm"),
    "two entries": (with_metadata({**HEADER["__metadata__"], "x": "y"}), "rtfm"),
    "tensor is a number": (pack({**HEADER, "in.bias": 3}), "expected an object"),
    "no dtype": (edited("in.bias", dtype=None), "dtype, shape and data_offsets"),
    "no shape": (edited("in.bias", shape=None), "dtype, shape and data_offsets"),
    "no offsets": (edited("in.bias", data_offsets=None), "dtype, shape and data_offsets"),
    "extra field": (edited("in.bias", strides=[1]), "dtype, shape and data_offsets"),
    "dtype I64": (edited("in.bias", dtype="I64"), "F32, F16 or BF16"),
    "dtype unknown": (edited("in.bias", dtype="f32"), "F32, F16 or BF16"),
    "dtype a number": (edited("in.bias", dtype=1), "expected a string"),
    "dtype of another size": (edited("in.bias", dtype="F16"), "bytes for shape"),
    "shape a number": (edited("in.bias", shape=16), "expected an array"),
    "shape negative twice": (edited("in.bias", shape=[-4, -4]), "integer >= 0"),
    "shape float": (edited("in.bias", shape=[16.0]), "integer >= 0"),
    "shape text": (edited("in.bias", shape=["16"]), "integer >= 0"),
    "shape 2^64+16": (edited("in.bias", shape=[2**64 + 16]), "integer >= 0"),
    "shape 2^62": (edited("in.bias", shape=[2**62]), "63 bits"),
    "shape wraps to 16": (edited("in.bias", shape=HUGE), "63 bits"),
    "rank 9": (edited("in.bias", shape=[16] + [1] * 8), "rank"),
    "rank 65": (edited("in.bias", shape=[16] + [1] * 64), "rank"),
    "zero size": (appended("x", "F32", [0], 0), ">= 1"),
    "zero size, huge": (appended("x", "F32", [0, 2**62, 2**62], 0), ">= 1"),
    "wrong shape": (edited("in.bias", shape=[4, 4]), "expected shape [16]"),
    "scalar": (appended("x", "F32", [], 4), "unknown tensor"),
    "offsets reversed": (edited("in.bias", data_offsets=OFFSETS[::-1]), "begin <= end"),
    "offsets negative": (edited("in.bias", data_offsets=[-64, 0]), "integer >= 0"),
    "offsets float": (edited("in.bias", data_offsets=[float(x) for x in OFFSETS]), "integer >= 0"),
    "offsets 2^53": (edited("in.bias", data_offsets=[2**53, 2**53 + 64]), "begin <= end"),
    "offsets 2^63-1": (edited("in.bias", data_offsets=[2**63 - 65, 2**63 - 1]), "begin <= end"),
    "offsets 2^64": (edited("in.bias", data_offsets=[2**64, 2**64 + 64]), "integer >= 0"),
    "offsets of one": (edited("in.bias", data_offsets=OFFSETS[:1]), "[begin, end]"),
    "offsets -0": (with_text('"data_offsets": [0', '"data_offsets": [-0'), "integer >= 0"),
    "leading zero": (with_text('"data_offsets": [0', '"data_offsets": [00'), "leading zero"),
    "overlap": (edited("in.bias", data_offsets=[0, 64]), "overlap"),
    "overlap by one": (edited("in.bias", data_offsets=[x - 1 for x in OFFSETS]), "overlap"),
    "hole": (edited("in.bias", data_offsets=[x + 4 for x in OFFSETS]), "hole"),
    "first byte unused": (pack(HEADER, DATA[:-4]), "begin <= end"),
    "trailing byte": (VALID + b"\0", "trailing"),
    "trailing megabyte": (VALID + bytes(1 << 20), "trailing"),
    "missing tensor": (without("blocks.0.q_gain"), "'blocks.0.q_gain' is missing"),
    "unknown tensor": (appended("blocks.1.q_gain", "F32", [8], 32), "unknown tensor"),
    "F32 NaN": (with_number("out.bias", b"\x00\x00\xc0\x7f"), "'out.bias'"),
    "F32 signalling NaN": (with_number("in.bias", b"\x01\x00\x80\xff"), "'in.bias'"),
    "F32 infinity": (with_number("time.0.weight", b"\x00\x00\x80\xff"), "'time.0.weight'"),
    "BF16 NaN": (with_number("in.weight", b"\xc0\x7f"), "'in.weight'"),
    "F16 infinity": (with_number("out.weight", b"\x00\x7c"), "'out.weight'"),
}


def refused(path: Path, message: str = "") -> None:
    with pytest.raises(rtfm_rt.ModelError) as caught:
        rtfm_rt.read_info(str(path))
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert len(text) < 600 + len(str(path)) and text.isprintable()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_valid(tmp_path):
    info = rtfm_rt.read_info(str(write(tmp_path / "tiny.safetensors", VALID)))
    counts = {"tensors": len(SHAPES), "parameters": PARAMETERS, "bytes": len(VALID)}
    assert info == {"manifest": MANIFEST, **counts}


def test_padded_header_and_any_order(tmp_path):
    header = json.dumps(dict(reversed(HEADER.items()))).encode() + b"  \n"
    assert rtfm_rt.read_info(str(write(tmp_path / "a", pack(header))))["tensors"] == len(SHAPES)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case, tmp_path):
    content, message = HOSTILE[case]
    refused(write(tmp_path / "bad.safetensors", content), message)


@pytest.mark.parametrize("cut", range(64))
def test_truncated(cut, tmp_path):
    refused(write(tmp_path / "cut.safetensors", VALID[: len(VALID) * cut // 64]))


def test_huge_header_is_not_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 100_000_000) + b"{")
        file.truncate(8 + 100_000_000)
    start = time.perf_counter()
    refused(path, "header of 2")
    assert time.perf_counter() - start < 2


def test_shapes_are_checked_before_memory_is_taken(tmp_path):
    size = 1 << 40  # a sparse file that is what its header says: 1 TiB of one tensor
    header = copy.deepcopy(HEADER)
    end = len(DATA) + size
    header["x"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(DATA), end]}
    path = write(tmp_path / "sparse.safetensors", pack(header))
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("no sparse files of this size here")
    refused(path, "unknown tensor")


def test_not_a_file(tmp_path):
    refused(tmp_path, "directory")
    refused(tmp_path / "missing.safetensors", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")
    secret = write(tmp_path / "secret", VALID)
    secret.chmod(0)
    if not os.access(secret, os.R_OK):
        refused(secret, "denied")


def leaves(node: dict, path: tuple = ()):
    """Paths of all keys of a manifest, objects included."""
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def changed(path: tuple, value: object) -> bytes:
    """The valid file with one manifest entry set, or removed when the value is `...`."""
    manifest = copy.deepcopy(MANIFEST)
    node = manifest
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if value is ...:
        del node[path[-1]]
    return pack(tiny_header(manifest))


@pytest.mark.parametrize("path", list(leaves(MANIFEST)), ids=".".join)
def test_manifest_keys(path, tmp_path):
    file = tmp_path / "bad.safetensors"
    if path != ("samplers", "1"):  # one table is enough
        refused(write(file, changed(path, ...)), "manifest")
    for value in (None, True, [[]], {"x": 1}, "", "\n", -1, 0.5e300):
        refused(write(file, changed(path, value)), "manifest")


ROW = [1, 0, 1, 0]
MANIFEST_VALUES = [
    (("format",), 2, "newer"),
    (("requires",), ["paged_latents"], "'paged_latents'"),
    (("family",), "other_dit", "frame_dit"),
    (("extra",), 1, "unknown key 'extra'"),
    (("camera", "extra"), 1, "unknown key 'extra'"),
    (("retrieval", "\u001b[31m"), 1, "unknown key '?[31m'"),
    (("name",), "a" * 257, "plain text"),
    (("source", "sha256"), "0" * 63, "64"),
    (("source", "sha256"), "G" * 64, "64"),
    (("codec", "kind"), "vae", "'patch'"),
    (("codec", "patch"), 3, "multiples"),
    (("image", "height"), 9, "multiples"),
    (("image", "height"), 16384, "..8192"),
    (("image",), {"height": 8192, "width": 8192}, "65536 tokens"),
    (("width",), 24, "heads * head_dim"),
    (("width",), 16.0, "an integer"),
    (("width",), 2**31 + 16, "..8192"),
    (("heads",), 4, "heads * head_dim"),
    (("head_dim",), 12, "multiple of 8"),
    (("layers",), 0, "1..128"),
    (("layers",), 129, "1..128"),
    (("layers",), 2, "'blocks.1."),
    (("mlp",), 32, "expected shape"),
    (("camera", "fx"), 0, "fx"),
    (("camera", "fy"), -0.5, "fy"),
    (("camera", "world_scale"), 0, "world_scale"),
    (("steps",), 3, "samplers"),
    (("samplers",), {}, "steps"),
    (("samplers", "0"), [], "keys"),
    (("samplers", "65"), [ROW] * 65, "keys"),
    (("samplers", "01"), [ROW], "keys"),
    (("samplers", "3"), [ROW] * 2, "3 rows"),
    (("samplers", "1"), [ROW[:3]], "[t, a, b, c]"),
    (("samplers", "1"), [[1.5, 0, 1, 0]], "0..1"),
    (("samplers", "1"), [[-0.1, 0, 1, 0]], "0..1"),
    (("samplers", "1"), [[1, 1e38, 1, 0]], "a number"),
    (("samplers", "1"), [["1", 0, 1, 0]], "a number"),
    (("retrieval", "context"), 33, "1..32"),
    (("retrieval", "sinks"), 4, "sinks + recent"),
    (("retrieval", "near"), 9.0, "near < far"),
    (("retrieval", "commit_below"), 2.5, "0..2"),
]


@pytest.mark.parametrize(("path", "value", "message"), MANIFEST_VALUES)
def test_manifest_values(path, value, message, tmp_path):
    refused(write(tmp_path / "bad.safetensors", changed(path, value)), message)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format":1}', "NaN", '{"steps":NaN}'])
def test_manifest_text(text, tmp_path):
    refused(write(tmp_path / "bad.safetensors", with_metadata({"rtfm": text})))


SPECIAL = b'{}[]",:0123456789-+.eE\\ u\x00\x7f\x80\xff'
EDITS = st.lists(
    st.tuples(
        st.integers(0, 8 + len(VALID_JSON) - 1),
        st.one_of(st.sampled_from(SPECIAL), st.integers(0, 255)),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_mutations(edits, tmp_path):
    """Never anything but success or ModelError, and success only where safetensors agrees."""
    content = bytearray(VALID)
    for at, byte in edits:
        content[at] = byte
    path = write(tmp_path / "mutated.safetensors", bytes(content))
    try:
        rtfm_rt.read_info(str(path))
    except rtfm_rt.ModelError:
        return
    safetensors.deserialize(bytes(content))
