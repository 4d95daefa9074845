#!/usr/bin/env bash
# LIMe (arXiv 2502.09245) on arithmetic with its steps: 4 layers, 4 heads, width 32. Plain against routed keys and values, each
# with keys and values that begin like all else, and as LIMe's code begins them. Writes docs/results/lime.md's tables and pictures.
# What is done already is not done again; a run that was stopped goes on.
#
#   runs/lime-arithmetic.sh [OUT]    default out/lime-arithmetic
#
#   SIZES=6  SEEDS="0 1 2"  EPOCHS=6  BATCH=8  CONTEXT=384  LR=1e-2  ROUTER_LR=1  ARMS="plain lime"    what is run; the other arms
#   are plain-uniform, lime-uniform and lime-random, whose routers begin without the identity. The paper has sizes 4, 5, 6 and 200
#   epochs at 1e-3. Two cores run a pair with 6 operators in about 8 minutes. ROUTER_LR is a multiple of LR: as given, routers
#   learn at 1e-2, as in the paper. PAGE= prints the tables instead of writing them into the page.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/lime-arithmetic}
: "${SIZES:=6}" "${SEEDS:=0 1 2}" "${EPOCHS:=6}" "${BATCH:=8}" "${CONTEXT:=384}" "${LR:=1e-2}" "${ROUTER_LR:=1}" "${ARMS:=plain lime}"

[ -f dist/runs/lime-arithmetic.js ] || npm run build

arm() { # NAME SIZE SEED
  local routing=none start=normal routers=()
  case $1 in lime*) routing=learned routers=(--router-lr "$ROUTER_LR") ;; esac
  case $1 in *-uniform) start=uniform ;; *-random) routers+=(--no-router-identity) ;; esac
  node dist/src/cli/main.js task train --task arithmetic --operands "$2" --count operators --epochs "$EPOCHS" --lr "$LR" \
    --batch "$BATCH" --seed "$3" --kv-routing "$routing" "${routers[@]}" --kv-start "$start" --context "$CONTEXT" --threads 1 \
    --out "$out/$1-size$2-seed$3"
}

# Two at a time, a thread each: so small a model does not fill two. One that fails (255 tells xargs) ends the script when the others are done.
export -f arm
export out EPOCHS LR ROUTER_LR BATCH CONTEXT
for size in $SIZES; do
  for seed in $SEEDS; do
    for name in $ARMS; do echo "$name $size $seed"; done
  done
done | xargs -P 2 -L 1 bash -Eeuc 'trap "exit 255" ERR; arm "$@"' arm

node dist/runs/lime-arithmetic.js "$out" "${PAGE-docs/results/lime.md}"
