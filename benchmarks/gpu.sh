#!/usr/bin/env bash
# Training on a GPU, checked and timed in at most ten minutes, from a bare machine with this repository.
#
#   bash benchmarks/gpu.sh [--data DIR] [--out FOLDER] [--parts NAMES]    # DIR holds CIFAR-10, see `data.root`
#   bash benchmarks/gpu.sh --dry                                          # tiny, on the CPU, nothing is installed
#
# PYTHON names another interpreter. One that has all that manyview needs is used as it is; else .venv is made. The other
# libraries (kornia, DALI) are installed there too; one that cannot be is left out, with a line.
set -euo pipefail
limit=600 # seconds of it all, installing included
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root/src:$root/benchmarks:$root/tests${PYTHONPATH:+:$PYTHONPATH}"

needs="import accelerate, matplotlib, numba, PIL, pydantic, rich, safetensors, scipy, simplejpeg, sklearn, timm, torchvision"
serves() { command -v "$1" >/dev/null && "$1" -c "$needs" 2>/dev/null; }

out="" dry=""
arguments=("$@")
for ((i = 0; i < $#; i++)); do
  case "${arguments[i]}" in
    --dry) dry=yes ;;
    --out | --out=*) out=given ;;
  esac
done
if [ -z "$out" ] && [ -n "$dry" ]; then
  out="$(mktemp -d)"
  trap 'rm -rf "$out"' EXIT
  arguments+=(--out "$out")
elif [ -z "$out" ]; then
  arguments+=(--out runs/gpu)
fi

python=""
for candidate in ${PYTHON:-} "$root/.venv/bin/python" python3; do
  if serves "$candidate"; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ] && [ -n "$dry" ]; then
  echo "gpu.sh --dry installs nothing, and no Python here has what manyview needs: run 'make install' first" >&2
  exit 2
elif [ -z "$python" ]; then
  "${PYTHON:-python3}" -m venv --system-site-packages "$root/.venv" # a torch that is there need not come again
  python="$root/.venv/bin/python"
  "$python" -m pip install --quiet --editable "$root[hf]" # which reads CIFAR-10 from parquet, too
  timeout 60 "$python" -m pip install --quiet kornia || echo "kornia could not be installed" >&2
  timeout 90 "$python" -m pip install --quiet nvidia-dali-cuda130 || echo "DALI could not be installed" >&2
fi
if [ -n "$dry" ]; then
  export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 # threads that wait for each other cost a busy machine most
fi
export PYTORCH_NVML_BASED_CUDA_CHECK=1 # parts are forked: what asks whether there is a GPU must not open it
"$python" -m gpu --seconds $((limit - SECONDS)) "${arguments[@]}"
