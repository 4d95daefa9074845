#!/usr/bin/env bash
# LIMe (arXiv 2502.09245) on language: plain against routed keys and values and the other arms of its comparisons, all on the same
# tokens in the same order for a seed. Writes the tables and pictures of docs/results/lime.md, "Language modelling". What is done
# already is not done again; a run that was stopped goes on. Two to three hours on two cores that do nothing else.
#
#   runs/lime-lm.sh [OUT]    default out/lime-lm
#
#   ARMS="plain lime hyper dense average first-1 first-2 first-4 last-2 lime-random"
#   SEEDS="0 1 2" for plain and lime    OTHER_SEEDS=0 for the others
#   LRS="1e-3 2e-3 4e-3"    peak learning rates that plain and lime are tried at with the first seed; all arms take the one that is
#                           best for plain. LR=2e-3 sets it and leaves the trial out
#   ROUTER_LR=1e-2          peak learning rate of routers, whatever the others' is
#   D=128 LAYERS=8 HEADS=4 KV_HEADS=2 FFN=344 CONTEXT=256 TOKENS=2M BATCH=8 WARMUP=100    sizes and length of a run
#   VALIDATE_EVERY=60 WINDOWS=32    steps between points of the curves, windows of each held-out text
#   DEPTHS="4 8 16 32" DEPTH_SEEDS=0    plain and lime at other depths, their blocks with as many parameters; DEPTHS= for none
#   MIX=FOLDER    the tokens of runs/brook-mix.json, made earlier [OUT/data, made here]
#   JOBS=2 THREADS=1    runs at a time and threads of each
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/lime-lm}
: "${ARMS:=plain lime hyper dense average first-1 first-2 first-4 last-2 lime-random}" "${SEEDS:=0 1 2}" "${OTHER_SEEDS:=0}"
: "${LRS:=1e-3 2e-3 4e-3}" "${LR:=}" "${ROUTER_LR:=1e-2}"
: "${D:=128}" "${LAYERS:=8}" "${HEADS:=4}" "${KV_HEADS:=2}" "${FFN:=344}" "${CONTEXT:=256}"
: "${TOKENS:=2M}" "${BATCH:=8}" "${WARMUP:=100}" "${VALIDATE_EVERY:=60}" "${WINDOWS:=32}"
: "${DEPTHS=4 8 16 32}" "${DEPTH_SEEDS:=0}" "${MIX:=$out/data}" "${JOBS:=2}" "${THREADS:=1}"

[ -f dist/runs/lime-lm.js ] || npm run build
sluice() { node dist/src/cli/main.js "$@"; }

if [ ! -f "$MIX/mix.json" ]; then
  sluice text install $(node -p 'JSON.parse(fs.readFileSync("runs/brook-mix.json")).parts.map((p) => p.corpus).join(" ")')
  sluice text mix runs/brook-mix.json --tokenizer models/brook --out "$MIX"
fi

train() { # ARM LR SEED [DEPTH]
  local name=$1 sizes="--d $D --layers $LAYERS --ffn $FFN" flags="" router=""
  if [ -n "${4:-}" ]; then
    name=$1-depth$4
    sizes=$(node dist/runs/lime-lm.js sizes "$4" "$D" "$LAYERS" "$HEADS" "$KV_HEADS" "$FFN")
  fi
  case $1 in
    plain) ;;
    lime) flags="--kv-routing learned" ;;
    lime-random) flags="--kv-routing learned --no-router-identity" ;;
    first-*) flags="--kv-routing learned --routing-first ${1#first-}" ;;
    last-*) flags="--kv-routing learned --routing-last ${1#last-}" ;;
    average) flags="--kv-routing average" ;;
    hyper) flags="--residual hyper --streams 4" ;;
    dense) flags="--residual dense" ;;
    *) echo "lime-lm.sh: no arm is called $1" >&2; return 1 ;;
  esac
  case $flags in *learned*) router="--router-lr $(node -p "$ROUTER_LR / $2")" ;; esac
  local dir=$out/$name-lr$2-seed$3
  local settings="--tokens $TOKENS $sizes --heads $HEADS --kv-heads $KV_HEADS --context $CONTEXT $flags --lr $2 $router --batch $BATCH \
--warmup $WARMUP --schedule cosine --floor 0.1 --seed $3 --validate-every $VALIDATE_EVERY --log-every $VALIDATE_EVERY \
--validation-windows $WINDOWS"
  if [ -f "$dir/settings" ] && [ "$(cat "$dir/settings")" != "$settings" ]; then
    echo "lime-lm.sh: $dir has other settings: $(cat "$dir/settings"). Choose another OUT, or delete it" >&2
    return 1
  fi
  [ ! -f "$dir/run.json" ] || return 0
  mkdir -p "$dir"
  echo "$settings" > "$dir/settings"
  sluice lm train --tokens-file "$MIX/train.tokens" --held-out "$MIX/heldout" --tokenizer models/brook $settings \
    --checkpoint-every 60 --threads "$THREADS" --out "$dir"
}

# Each line of the input is a run. One that fails (255 tells xargs) ends the script when those beside it are done.
all() { xargs -r -P "$JOBS" -L 1 bash -Eeuo pipefail -c 'trap "exit 255" ERR; train "$@"' train; }
export -f train sluice
export out MIX ROUTER_LR D LAYERS HEADS KV_HEADS FFN CONTEXT TOKENS BATCH WARMUP VALIDATE_EVERY WINDOWS THREADS

if [ -z "$LR" ]; then
  for lr in $LRS; do
    for arm in plain lime; do echo "$arm $lr ${SEEDS%% *}"; done
  done | all
  LR=$(node dist/runs/lime-lm.js rate "$out" "${SEEDS%% *}" $LRS)
fi
{
  for arm in $ARMS; do
    case $arm in plain | lime) seeds=$SEEDS ;; *) seeds=$OTHER_SEEDS ;; esac
    for seed in $seeds; do echo "$arm $LR $seed"; done
  done
  for depth in $DEPTHS; do
    [ "$depth" = "$LAYERS" ] && continue # these are among those above
    for seed in $DEPTH_SEEDS; do
      for arm in plain lime; do echo "$arm $LR $seed $depth"; done
    done
  done
} | all

node dist/runs/lime-lm.js page "$out" "$LR"
