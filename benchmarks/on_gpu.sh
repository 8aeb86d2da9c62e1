#!/usr/bin/env bash
# On one GPU, in less than seven minutes: the tests marked `accelerator`, then the table of benchmarks/on_gpu.py, which
# takes the arguments. Needs jax with CUDA and optax; pytest and PyTorch where they are installed.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=. XLA_PYTHON_CLIENT_PREALLOCATE=false
python=${PYTHON:-python3}
failed=0
limit=400 # seconds, of tests and table together
for_tests=120

installed() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

if installed pytest; then
  # Only the files that hold such a test, since the others import more; without pytest-xdist in one process.
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
