#!/usr/bin/env bash
# Do routed keys and values change what features exist? TopK SAEs at the end of every block of brook and of brook-lime, two seeds,
# and which features of one another has too: the twin's, another seed's, another layer's. Writes docs/results/lime.md's tables and
# pictures of it. About half an hour on two cores. What is done already is not done again; a run that was stopped goes on.
#
#   runs/lime-saes.sh [OUT]    default out/lime-saes
#
#   PLAIN=models/brook  LIME=models/brook-lime    the twins
#   LAYERS="0 1 2 3 4 5"  TOKENS=1500k            blocks; tokens an SAE is trained on
#   MATCH_TOKENS=200k  EVAL_TOKENS=20k            held-out tokens that features are compared on; that SAEs are measured on
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/lime-saes}
: "${PLAIN:=models/brook}" "${LIME:=models/brook-lime}" "${LAYERS:=0 1 2 3 4 5}" "${TOKENS:=1500k}"
: "${MATCH_TOKENS:=200k}" "${EVAL_TOKENS:=20k}"
text=sotu,brown,austen,anarchism,moby-dick,web
sluice() { node dist/src/cli/main.js "$@"; }

[ -f dist/runs/lime-saes.js ] || npm run build
for model in "$PLAIN" "$LIME"; do
  [ -f "$model/config.json" ] || { echo "$model: no model there; name the twins by PLAIN and LIME" >&2; exit 1; }
done
mkdir -p "$out"

train() { # NAME MODEL
  {
    echo "model: $2"
    echo "text: [$text]"
    echo "tokens: $TOKENS"
    printf '%s\n' 'batch: 1024' 'buffer: 131072' 'features: 2048' 'k: 32' 'lr: 3.2e-3' 'seed: [0, 1]' "evalTokens: $EVAL_TOKENS" 'saes:'
    for layer in $LAYERS; do printf '  - name: layer%s\n    hook: blocks.%s.hook_resid_post\n' "$layer" "$layer"; done
  } > "$out/$1.yaml"
  sluice sae train --config "$out/$1.yaml" --out "$out/$1"
}
train plain "$PLAIN"
train lime "$LIME"

saes() { # NAME SEED
  local layer
  for layer in $LAYERS; do echo "$out/$1/layer$layer-seed$2"; done | paste -sd,
}
# Always two seeds: SAEs of one seed begin with the same weights, also at other layers and in the other model.
match() { # NAME MODEL OTHER OTHER_MODEL SEED OTHER_SEED PAIRS
  local file="$out/match-$1-$3-seed$5.json"
  [ -f "$file" ] && return
  sluice sae match --sae "$(saes "$1" "$5")" --model "$2" --other "$(saes "$3" "$6")" --other-model "$4" --pairs "$7" \
    --text $text --tokens "$MATCH_TOKENS" --json > "$file.partial"
  mv "$file.partial" "$file"
}
match plain "$PLAIN" plain "$PLAIN" 0 1 all
match lime "$LIME" lime "$LIME" 0 1 all
match plain "$PLAIN" lime "$LIME" 0 1 all
match plain "$PLAIN" lime "$LIME" 1 0 each

node dist/runs/lime-saes.js "$out"
