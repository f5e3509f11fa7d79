#!/usr/bin/env bash
# The golden path on a GPU: configs/sft_qlora.yaml on a random 8B model, memory capped at 23 GiB of the card.
# Run in the root of a checkout; `python3` must hold what pyproject.toml asks for. Writes what it saw to $OUT.
#   usage: OUT=folder gpu_golden_path.sh TOKENIZER_FOLDER first|second [--set KEY=VALUE …]
# first: make the model, fetch … export. second: the same training again, and once more stopped and resumed.
set -euo pipefail
tokenizer=$1
part=$2
shift 2
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
given=(--config configs/sft_qlora.yaml --set model.source=folder --set model.name_or_path=models/random-8b --set model.revision=null
    --set training.eval_steps=6 --set training.save_steps=4 --set evaluation.max_new_tokens=32 --set evaluation.max_examples=48 --set card.vram_gib=23 "$@")
clock() { printf '%s s\n' "$SECONDS"; }
hashes() { sha256sum runs/*/adapter/adapter_model.safetensors; }

if [[ $part == first ]]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    [[ -d models/random-8b ]] || python3 benchmarks/random_8b.py "$tokenizer" models/random-8b
    clock
    python3 -P -m solotune fetch "${given[@]}"
    python3 -P -m solotune prepare "${given[@]}"
    python3 -P -m solotune plan "${given[@]}" --vram 24
    clock
    python3 -P -m solotune train "${given[@]}"
    clock
    python3 -P -m solotune evaluate --run latest
    clock
    python3 -P -m solotune export --run latest --merge
    clock
else
    # Twice the same, and once more stopped by SIGTERM in the middle and resumed: three equal hashes are wanted.
    [[ -d models/random-8b ]] || python3 benchmarks/random_8b.py "$tokenizer" models/random-8b
    python3 -P -m solotune fetch "${given[@]}"
    python3 -P -m solotune prepare "${given[@]}" > "$OUT/prepare.log"
    clock
    python3 -P -m solotune train "${given[@]}"
    clock
    python3 -P -m solotune train "${given[@]}"
    clock
    python3 -P scripts/train_sft.py "${given[@]}" &
    pid=$!
    until (($(find runs -name metrics.jsonl | wc -l) == 3)) && grep -qs '"step": 6' "$(find runs -name metrics.jsonl | sort | tail -n 1)"; do
        sleep 0.2
    done
    kill -TERM "$pid"
    wait "$pid" || echo "stopped with exit code $?"
    python3 -P scripts/train_sft.py --resume latest
    clock
    hashes
fi
hashes
for run in runs/*/; do
    name=$(basename "$run")
    cp "$run/metrics.jsonl" "$OUT/$name.metrics.jsonl"
    cp "$run/manifest.json" "$OUT/$name.manifest.json"
done
