#!/usr/bin/env bash
# Stage 2 with the hyper-parameters of the paper (665K conversations, global batch size 128).
#   DATA, IMAGES  conversations and their image folder
#   STAGE1        output of `aligngpt pretrain`
#   OUTPUT        folder for the model
set -euo pipefail
: "${DATA:?}" "${IMAGES:?}" "${STAGE1:?}" "${OUTPUT:?}"

aligngpt finetune \
    --data "$DATA" --images "$IMAGES" --stage1 "$STAGE1" --output "$OUTPUT" \
    --per-device-train-batch-size 16 --gradient-accumulation-steps 8 \
    --learning-rate 2e-5 --lr-scheduler-type cosine --warmup-ratio 0.03 --weight-decay 0 \
    --num-train-epochs 1 --max-length 2048 --bf16 --gradient-checkpointing \
    "$@"
