#!/usr/bin/env bash
# Stage 1 with the hyper-parameters of the paper (558K pairs, global batch size 256).
#   DATA, IMAGES, LEVELS  pairs, their image folder, and the output of `aligngpt level`
#   OUTPUT                folder for the stage-1 checkpoint
set -euo pipefail
: "${DATA:?}" "${IMAGES:?}" "${LEVELS:?}" "${OUTPUT:?}"

aligngpt pretrain \
    --data "$DATA" --images "$IMAGES" --levels "$LEVELS" --output "$OUTPUT" \
    --language-model "${LANGUAGE_MODEL:-lmsys/vicuna-7b-v1.5}" \
    --vision-tower "${VISION_TOWER:-openai/clip-vit-large-patch14-336}" \
    --per-device-train-batch-size 32 --gradient-accumulation-steps 8 \
    --learning-rate 1e-3 --lr-scheduler-type cosine --warmup-ratio 0.03 --weight-decay 0 \
    --num-train-epochs 1 --max-length 2048 --bf16 --gradient-checkpointing \
    "$@"
