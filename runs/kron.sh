#!/usr/bin/env bash
# KronSAE (arXiv 2505.22255) on brook: the product and its two alternatives, sizes of heads, TopK at equal tokens and at equal FLOPs,
# absorption; and the paper's synthetic covariances. Three seeds. Writes docs/results/kron.md's tables and pictures.
# About an hour and a half on two cores. What is done already is not done again.
#
#   runs/kron.sh [OUT]    default out/kron
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/kron}
sluice() { node dist/src/cli/main.js "$@"; }

[ -f dist/runs/kron.js ] || npm run build

sluice sae train --config runs/kron-lr.yaml --out "$out/lr"
sluice sae train --config runs/kron.yaml --out "$out/sweep"

# TopK with the FLOPs of an SAE with m x n heads: (d h (m + n) + h m n + k d) / (d F + k d) of its tokens (the paper's equation 7).
topk() { # NAME TOKENS
  sed -e '/^saes:/,$d' -e "s/^tokens: .*/tokens: $2/" runs/kron.yaml > "$out/$1.yaml"
  printf 'saes:\n  - name: topk\n' >> "$out/$1.yaml"
  sluice sae train --config "$out/$1.yaml" --out "$out/$1"
}
topk as-2x4 756000
topk as-4x4 508000
topk as-8x8 260000

if [ ! -f "$out/absorption.json" ]; then
  saes=$(ls -d "$out"/sweep/{topk,kron-2x4,kron-4x4,kron-8x8}-seed* | paste -sd,)
  sluice sae absorption --sae "$saes" --model models/brook --text sotu,brown,austen,anarchism,moby-dick,web --task token-form \
    --split train --tokens 300k --json > "$out/absorption.partial"
  mv "$out/absorption.partial" "$out/absorption.json"
fi

node dist/runs/kron-synthetic.js "$out"
node dist/runs/kron.js "$out"
