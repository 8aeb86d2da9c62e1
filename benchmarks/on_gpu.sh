#!/usr/bin/env bash
# Run the tests marked `accelerator` on one GPU, then benchmarks/on_gpu.py with the arguments of this script: less than
# seven minutes together. Needs jax with CUDA and optax; uses pytest and PyTorch if they are installed.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=. XLA_PYTHON_CLIENT_PREALLOCATE=false
python=${PYTHON:-python3}
failed=0
limit=400     # seconds of tests and table together
for_tests=120 # seconds of the tests

installed() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

if installed pytest; then
  # Collect only the files with the marker: other files import more packages. Use one process without pytest-xdist.
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.accelerator' tests)
  installed xdist && workers=() || workers=(-o addopts=)
  said=$(timeout "$for_tests" "$python" -m pytest -q -p no:cacheprovider -m accelerator "${workers[@]}" "${files[@]}" 2>&1 |
    tee /dev/stderr | tail -n 1)
  failed=$?
  [ $failed -ne 124 ] || said="stopped after $for_tests s"
else
  said="not run, pytest is not installed"
  echo "$said"
fi
timeout $((limit + 15 - SECONDS)) "$python" benchmarks/on_gpu.py \
  --seconds $((limit - SECONDS)) --note "Accelerator tests: $said." "$@" || failed=$?
exit $failed
