#!/usr/bin/env bash
# SAE Boost (arXiv 2507.12990) on brook: bases that know general English learn Russian, code and biomedical text, by a residual SAE
# and by the paper's baselines: an extended SAE (new features at random or as copies of the most active), stitching, full
# fine-tuning. Three seeds; then the number of domain tokens and of active residual features. Writes docs/results/boost.md's tables
# and pictures. About an hour on two cores. What is done already is not done again.
#
#   runs/boost.sh [OUT]    default out/boost
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/boost}
sluice() { node dist/src/cli/main.js "$@"; }
features=256
k=3

[ -f dist/runs/boost.js ] || npm run build

sluice sae train --config runs/boost-base.yaml --out "$out/bases"

harvest() { # NAME TEXTS
  sluice harvest --model models/brook --text "$2" --hook blocks.3.hook_resid_post --tokens 400k --dtype f16 --out "$out/acts/$1"
}
harvest russian fortunes-ru,quran-ru
harvest code code
harvest biomedical go

train() { # OUT COMMAND …: trains what is not there yet
  local to=$1
  shift
  [ -f "$to/cfg.json" ] || sluice "$@" --batch 1024 --buffer 131072 --out "$to" --quiet
  echo "$to"
}

boost() { # OUT SEED DOMAIN TOKENS K LR
  train "$1" sae boost --base "$out/bases/base-seed$2" --activations "$out/acts/$3" --tokens "$4" --features $features --k "$5" \
    --lr "$6" --seed "$2"
}
extend() { # OUT SEED DOMAIN START LR
  train "$1" sae train --init "$out/bases/base-seed$2" --activations "$out/acts/$3" --tokens 400k --k $((32 + k)) --lr "$5" \
    --features $((4096 + features)) --new-features "$4" --freeze --seed "$2"
}
tune() { # OUT SEED DOMAIN LR
  train "$1" sae train --init "$out/bases/base-seed$2" --activations "$out/acts/$3" --tokens 400k --lr "$4" --seed "$2"
}
graft() { # OUT SEED TUNED HOW
  [ -f "$1/cfg.json" ] ||
    sluice sae graft --base "$out/bases/base-seed$2" --changed "$3" --features $features ${4:+"$4"} --out "$1" --quiet
}

# Which learning rate suits each, on one domain and seed.
for lr in 8e-4 1.6e-3 3.2e-3 6.4e-3; do
  boost "$out/lr/boost-$lr" 0 russian 400k $k $lr
  extend "$out/lr/random-$lr" 0 russian random $lr
  extend "$out/lr/active-$lr" 0 russian most-active $lr
  tune "$out/lr/tuned-$lr" 0 russian $lr
done

for domain in russian code biomedical; do
  for seed in 0 1 2; do
    to=$out/$domain/seed$seed
    boost "$to/boost" $seed $domain 400k $k 3.2e-3
    extend "$to/random" $seed $domain random 3.2e-3
    extend "$to/active" $seed $domain most-active 3.2e-3
    tune "$to/tuned" $seed $domain 1.6e-3
    graft "$to/beside" $seed "$to/tuned" ""
    graft "$to/replaced" $seed "$to/tuned" --replace
    for tokens in 25k 50k 100k 200k; do
      boost "$to/boost-$tokens" $seed $domain $tokens $k 3.2e-3
    done
    for more in 8 16; do
      boost "$to/boost-k$more" $seed $domain 400k $more 3.2e-3
    done
  done
done

node dist/runs/boost.js "$out"
