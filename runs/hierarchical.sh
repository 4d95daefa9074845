#!/usr/bin/env bash
# HierarchicalTopK (arXiv 2505.24473) on brook: is one SAE for every k as good as SAEs trained for each k? Trains 21 SAEs on one
# stream of activations, measures them on held-out text, and writes docs/results/hierarchical.md's tables and pictures.
# About an hour on two cores. What is done already is not done again.
#
#   runs/hierarchical.sh [OUT]    default out/hierarchical
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/hierarchical}
sluice() { node dist/src/cli/main.js "$@"; }

[ -f dist/runs/hierarchical.js ] || npm run build

sluice sae train --config runs/hierarchical-lr.yaml --out "$out/lr"
sluice sae train --config runs/hierarchical.yaml --out "$out/sweep"
if [ ! -f "$out/proxies.json" ]; then
  saes=$(ls -d "$out"/sweep/{hierarchical,topk}-*/ | grep -v fast | sed 's:/$::' | paste -sd,)
  sluice sae proxies --sae "$saes" --model models/brook --text sotu,brown,austen,anarchism,moby-dick,web \
    --k 8,16,32,64,128 --tokens 200k --json > "$out/proxies.partial"
  mv "$out/proxies.partial" "$out/proxies.json"
fi
node dist/runs/hierarchical.js "$out"
