#!/usr/bin/env bash
# LIMe (arXiv 2502.09245) on questions of reach in graphs, after ProsQA: plain against routed keys and values, from scratch. (The paper
# fine-tunes models of 150M that have read 50B tokens; a model of this repository reads 256 tokens at a time, too few for a question.)
# What is learnt is the steps and the answer; LOSS=all has the question learnt too, whose graph is drawn at random.
# Writes the table and the picture of docs/results/lime.md. What is done already is not done again; a run that was stopped goes on.
#
#   runs/lime-prosqa.sh [OUT]    default out/lime-prosqa
#
#   SEEDS="0 1 2"  EPOCHS=10  D=64  LAYERS=6  BATCH=8  LR=3e-3  ROUTER_LR=3  LOSS=completion  ARMS="plain lime"
#   ROUTER_LR is a multiple of LR. PAGE= prints the tables instead of writing them into the page.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/lime-prosqa}
: "${SEEDS:=0 1 2}" "${EPOCHS:=10}" "${D:=64}" "${LAYERS:=6}" "${BATCH:=8}" "${LR:=3e-3}"
: "${ROUTER_LR:=3}" "${LOSS:=completion}" "${ARMS:=plain lime}"

[ -f dist/runs/lime-prosqa.js ] || npm run build

arm() { # NAME SEED
  local routing=none start=normal routers=()
  case $1 in lime*) routing=learned routers=(--router-lr "$ROUTER_LR") ;; esac
  case $1 in *-uniform) start=uniform ;; esac
  node dist/src/cli/main.js task train --task prosqa --d "$D" --layers "$LAYERS" --ffn "$((8 * D / 3 / 8 * 8))" --epochs "$EPOCHS" \
    --lr "$LR" --batch "$BATCH" --loss "$LOSS" --seed "$2" --kv-routing "$routing" "${routers[@]}" \
    --kv-start "$start" --context 320 --threads 1 --out "$out/$1-seed$2"
}

# Two at a time, a thread each. One that fails (255 tells xargs) ends the script when the others are done.
export -f arm
export out EPOCHS D LAYERS BATCH LR ROUTER_LR LOSS
for seed in $SEEDS; do
  for name in $ARMS; do echo "$name $seed"; done
done | xargs -P 2 -L 1 bash -Eeuc 'trap "exit 255" ERR; arm "$@"' arm

node dist/runs/lime-prosqa.js "$out" "${PAGE-docs/results/lime.md}"
