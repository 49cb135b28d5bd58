#!/usr/bin/env bash
# Everything to measure on a GPU machine that is lent for 30 minutes, at most 10 minutes a command: three commands.
#
#   benchmarks/gpu/all.sh first      tests that need a GPU, solo times, batches beside each other
#   benchmarks/gpu/all.sh second     the seed paper's experiments, overheads
#   benchmarks/gpu/all.sh third      goodput by policy, hardware counters
#   benchmarks/gpu/all.sh SCRIPT     more of one script (solo, pairs, paper, overheads, goodput, counters)
#
# Run carry.sh before, where there is a network. One script that fails or takes too long does not stop the others. What
# benchmarks/gpu/results holds is gone on with; results are written to build/gpu/results, and after each step everything
# so far is packed to gpu-STAGE.tar.gz.NN in $OUT (default build/gpu/packed), in files of less than 16 MiB. Unpack
# with: cat gpu-first.tar.gz.* | tar xz -C benchmarks/gpu/results
#
# DEVICE=emulated SCALE=0.02 rehearses a stage here; results are then in build/gpu/rehearsal. Nothing changes a setting
# of the GPU.
set -uo pipefail
stage=${1:-}
case $stage in first | second | third | solo | pairs | paper | overheads | goodput | counters) ;; *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;; esac
cd "$(dirname "$0")/../.."

DEVICE=${DEVICE:-cuda:0}
SCALE=${SCALE:-1}
packed=${OUT:-build/gpu/packed}
results=build/gpu/results
[ "${DEVICE%%:*}" = cuda ] || results=build/gpu/rehearsal/${DEVICE%%:*}
mkdir -p "$packed" "$results"
if [ "${DEVICE%%:*}" = cuda ]; then
  cp -rn benchmarks/gpu/results/. "$results"/ 2>/dev/null || true
  . benchmarks/gpu/environment.sh build/gpu-wheels || echo "all.sh: the environment is not complete, going on with what is there"
fi
log=$results/log-$stage.txt
began=$SECONDS

pack() {
  rm -f "$packed/gpu-$stage.tar.gz."*
  tar cz -C "$results" . | split -b 15M -d - "$packed/gpu-$stage.tar.gz."
}

# step NAME LIMIT_S COMMAND...: runs it for at most so long, keeps what it says, and packs.
step() {
  local name=$1 limit=$2 status=0
  shift 2
  echo "== $name ($((SECONDS - began)) s)" | tee -a "$log"
  timeout --kill-after=10 "$limit" "$@" >>"$log" 2>&1 || status=$?
  echo "== $name ended with status $status after $((SECONDS - began)) s in all" | tee -a "$log"
  tail -n 6 "$log"
  pack
}

# measure NAME LIMIT_S SECONDS FLAGS...: a script of this folder; SECONDS of measuring, scaled in a rehearsal.
measure() {
  local name=$1 limit=$2 seconds
  seconds=$(awk -v s="$3" -v f="$SCALE" 'BEGIN { print s * f }')
  shift 3
  step "$name" "$limit" python3 "benchmarks/gpu/$name.py" --device "$DEVICE" --out "$results" --resume \
    --seconds "$seconds" "$@"
}

nvidia-smi >"$results/nvidia-smi-$stage.txt" 2>&1 || true
case $stage in
  first)
    if [ "${DEVICE%%:*}" = cuda ]; then
      step gpu-tests 100 python3 -m pytest -m gpu -q -p no:cacheprovider --continue-on-collection-errors \
        $(grep -lE 'mark\.gpu' tests/test_*.py)
    fi
    measure solo 200 100 # makes the models first, which is not counted
    measure pairs 250 180
    ;;
  second)
    measure paper 420 380
    measure overheads 140 110
    ;;
  third)
    measure goodput 320 290
    measure counters 240 210
    ;;
  *)
    measure "$stage" 540 470
    ;;
esac
nvidia-smi >>"$results/nvidia-smi-$stage.txt" 2>&1 || true
pack
ls -l "$packed"
python3 benchmarks/gpu/report.py --out "$results" | tail -n 120
