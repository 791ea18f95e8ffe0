#!/usr/bin/env bash
# Score WebDataset shards, bin the scores into levels, write a report and a filtered copy.
#   DATA    shards, such as 'cc3m/{00000..00331}.tar'
#   SCORER  a CLIP-like model: folder or Hub name
#   OUTPUT  folder for all results
set -euo pipefail
: "${DATA:?}" "${OUTPUT:?}"
SCORER=${SCORER:-openai/clip-vit-large-patch14-336}

aligngpt score --data "$DATA" --scorer "$SCORER" --output "$OUTPUT/scores"
aligngpt level --scores "$OUTPUT/scores" --num-levels 8 --output "$OUTPUT/levels"
aligngpt report data --scores "$OUTPUT/scores" --levels "$OUTPUT/levels" --data "$DATA" --output "$OUTPUT/data.html"

# Conditioning on the level needs no filter; this copy is for comparison with training on the better half.
aligngpt filter --data "$DATA" --scores "$OUTPUT/scores" --levels "$OUTPUT/levels" --min-level 5 \
    --exclude duplicate_pair --output "$OUTPUT/filtered"
