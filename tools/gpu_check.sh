#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds, tests, sanitizes and measures the CUDA backend on a machine with a GPU: one command, no
# network, ten minutes at most. Wants nvcc 13, a driver >= 580, and a python3 (or $PYTHON) with pip,
# scikit-build-core, pybind11, numpy, torch, safetensors, pytest and hypothesis.
#
#     tools/gpu_check.sh [FOLDER]     writes FOLDER/<gpu>-<date>.json (default: benchmarks/results)
#
# ONLY='build|frame|ops|models' limits it to those steps; LOGS=FILE.tgz is where the whole logs go. Both files are
# written anew after each step, for whoever stops this script.
# cuBLASLt is tested and measured beside where it is found: $CUBLAS (the path of libcublasLt.so.13), or
# what cuda-pathfinder finds, or the one that came with PyTorch.
# Without a GPU it says so and exits 0. It ends with 1 if anything failed; the file says what.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=${1:-benchmarks/results}
work=build/gpu_check
began=$SECONDS
PATH=$PATH:/usr/local/cuda/bin  # where images have nvcc and compute-sanitizer and say so to nobody

if ! command -v nvidia-smi >/dev/null || ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0); then
  echo "gpu_check: no GPU answers (nvidia-smi); skipped: build, tests, sanitizer, benchmarks"
  exit 0
fi
if ! command -v "${CUDACXX:-nvcc}" >/dev/null; then
  echo "gpu_check: $gpu answers, but there is no nvcc; skipped: build, tests, sanitizer, benchmarks"
  exit 0
fi

rm -rf "$work" && mkdir -p "$work" "$folder"
: >"$work/steps"
failed=0

file="$folder/$(echo "$gpu" | tr ' /' '--')-$(date -u +%Y-%m-%d).json"
report() {
  "$python" tools/gpu_report.py "$work" "$gpu" >"$file" || failed=1
  [ -z "${LOGS:-}" ] || tar czf "$LOGS" -C "$work" --exclude=site --exclude=cmake .
}

# step NAME SECONDS COMMAND...: runs it within the time and within ten minutes of all steps, notes how it
# ended, shows the end of its output
step() {
  local name=$1 limit=$2 start=$SECONDS code left=$((570 - (SECONDS - began)))
  shift 2
  [[ $name =~ ^(${ONLY:-.*})$ ]] || return 0
  if [ $left -lt 5 ]; then
    echo "gpu_check: no time is left for $name"
    echo "$name skipped 0" >>"$work/steps"
    return 1
  fi
  echo "gpu_check: $name"
  timeout --kill-after=10 $((left < limit ? left : limit)) "$@" >"$work/$name.log" 2>&1
  code=$?
  tail -n $((code ? 40 : 6)) "$work/$name.log"
  echo "$name $code $((SECONDS - start))" >>"$work/steps"
  [ $code -eq 0 ] || failed=1
  report
  return $code
}

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d .)
case $capability in 90 | 100) arch=${capability}a ;; 86 | 87) arch=80 ;; *) arch=$capability ;; esac

if step build 300 "$python" -m pip install . --no-index --no-deps --no-build-isolation \
  --target "$work/site" --config-settings=cmake.define.RTFM_TESTING=ON \
  --config-settings=cmake.define.RTFM_CUDA=ON "--config-settings=cmake.define.RTFM_CUDA_ARCHS=$arch-real" \
  --config-settings=build-dir="$work/cmake"; then
  PYTHONPATH=$PWD/$work/site${PYTHONPATH:+:$PYTHONPATH}
  export PYTHONPATH
  # a GPU that answers nvidia-smi but not us is a failure, where tests would only be skipped
  step frame 60 "$python" -c "import numpy as np, rtfm_rt
session = rtfm_rt.Session('rooms', device='cuda')
session.observe(np.zeros((64, 64, 3), np.uint8), np.eye(4))
print(session.device, session.precision, session.step(np.eye(4)))" || {
    echo "gpu_check: no frame, so nothing else is tried"
    exit 1
  }
  cublas=${CUBLAS:-$("$python" - <<'END'
import sys
from pathlib import Path
from rtfm_rt.cublas import find
wheels = [Path(folder) / "nvidia/cu13/lib/libcublasLt.so.13" for folder in sys.path]
print(find("cuda") or next((str(path) for path in wheels if path.exists()), ""))
END
  )}
  bench() { # NAME SECONDS ARGUMENTS...: python on them
    step "$1" "$2" "$python" "${@:3}"
  }
  family() { # NAME SECONDS CASE: at full size with random weights, rtfm_rt alone
    bench "families-$1" "$2" -m benchmarks.families "$1" --case "$3" --device cuda --json "$work/families.json"
  }
  # first: products and contexts of real sizes, which few tests have
  bench ops 150 benchmarks/cuda_ops.py --cublas "$cublas" --json "$work/ops.json"
  pytest=("$python" -m pytest -q -p no:cacheprovider -W default)
  parallel=()
  "$python" -c "import xdist" 2>/dev/null && parallel=(-n 8)
  step tests 240 "${pytest[@]}" "${parallel[@]}" --device cuda tests/test_cuda.py tests/test_ops.py \
    tests/test_float8.py tests/test_model.py tests/test_session.py tests/test_world.py tests/test_memory.py \
    tests/test_convolution.py tests/test_latent_ops.py tests/test_dual_stream_passes.py tests/test_oasis.py \
    tests/test_causal_dit_passes.py
  step interop 60 "${pytest[@]}" tests/test_device_frames.py tests/test_pose_slot.py \
    tests/test_cublas.py::test_the_header_is_nvidias
  if [ -n "$cublas" ]; then
    step cublas 120 "${pytest[@]}" "${parallel[@]}" --device cuda --cublas "$cublas" tests/test_ops.py \
      tests/test_convolution.py tests/test_model.py tests/test_session.py
  else
    echo "gpu_check: no cuBLASLt; its tests and figures are skipped"
    echo "cublas skipped 0" >>"$work/steps"
  fi
  if command -v compute-sanitizer >/dev/null; then
    small='(test_matmul and 33x31x33) or (test_attend and (60x2x24x2 or 128x2x64x1 or 192x1x128x2))'
    small+=' or test_norm_modulate or test_patches or test_no_past or test_time_attention_for or test_frames_in_pages'
    for tool in memcheck racecheck; do
      options=(--tool $tool --error-exitcode 9)
      [ $tool = memcheck ] || options+=(--racecheck-detect-level error)  # warnings name wgmma without reason
      step $tool 120 compute-sanitizer "${options[@]}" \
        "${pytest[@]}" --device cuda tests/test_ops.py tests/test_float8.py tests/test_convolution.py \
        tests/test_latent_ops.py -k "$small"
    done
  else
    echo "gpu_check: no compute-sanitizer; memcheck and racecheck are skipped"
    echo "memcheck skipped 0" >>"$work/steps"
    echo "racecheck skipped 0" >>"$work/steps"
  fi
  bench memory 60 benchmarks/cuda_memory.py --json "$work/memory.json"
  bench float8 60 benchmarks/precision.py --json "$work/float8.json"
  bench models 300 benchmarks/cuda_steps.py --cublas "$cublas" --json "$work/models.json"
  family efficient_lvsm 60 '256x256, 4 context frames'
  family oasis 90 'window of 32, 10 steps'
  family waypoint 150 '360P, 4 images of 512x256'
  bench torch 600 benchmarks/cuda_torch.py --json "$work/torch.json"
fi

report
echo "gpu_check: $file after $((SECONDS - began)) s"
exit $failed
