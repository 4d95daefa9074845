#!/usr/bin/env bash
# What routed keys and values do inside a language model (arXiv 2502.09245, section 5.2): brook beside brook-lime on the same text. Matrix
# entropy of states, words that a probe tells apart, which layers are read, and by which tokens. Writes docs/results/lime.md's
# tables and pictures of it; about a quarter of an hour on two cores. What is measured already is not measured again.
#
#   runs/lime-inside.sh [OUT]    default out/lime-inside
#
#   PLAIN=models/brook  LIME=models/brook-lime    the twins
#   SEQUENCES=64  WINDOWS=256                     held-out windows for entropies; for circuits
#   EPOCHS=30                                     of the probes that may converge, beside the paper's one
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/lime-inside}
: "${PLAIN:=models/brook}" "${LIME:=models/brook-lime}" "${SEQUENCES:=64}" "${WINDOWS:=256}" "${EPOCHS:=30}"
text=sotu,brown,austen,anarchism,moby-dick,web
pictures=docs/results/lime
sluice() { node dist/src/cli/main.js "$@"; }

[ -f dist/runs/lime-inside.js ] || npm run build
mkdir -p "$out"
sluice text install ${text//,/ }

measure() { # NAME COMMAND…
  local file="$out/$1.json" picture="$pictures/$1.svg"
  shift
  [ -f "$file" ] && return
  sluice lime "$@" --picture "$picture" --json > "$file.partial"
  mv "$file.partial" "$file"
}
measure entropy entropy --model "$PLAIN,$LIME" --text "$text" --sequences "$SEQUENCES"
# All of the text: the held-out part has too few of these words.
measure words separability --model "$PLAIN,$LIME" --text "$text" --split all
measure words-converged separability --model "$PLAIN,$LIME" --text "$text" --split all --epochs "$EPOCHS"
measure routes routes --model "$LIME"
measure circuits circuits --model "$LIME" --text "$text" --sequences "$WINDOWS"
if [ ! -f "$out/mixed.json" ]; then
  node dist/runs/lime-mixed.js "$PLAIN,$LIME" "$text" "$SEQUENCES" 3 > "$out/mixed.json.partial"
  mv "$out/mixed.json.partial" "$out/mixed.json"
fi

node dist/runs/lime-inside.js "$out"
