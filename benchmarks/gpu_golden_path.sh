#!/usr/bin/env bash
# The golden path on a GPU: configs/sft_qlora.yaml on a random 8B model, memory capped at 23 GiB of the card.
# Run in the root of a checkout; `python3` must hold what pyproject.toml asks for. Writes what it saw to $OUT.
# The rows are those of `train_speed.py --agree`: a chain of words that a random model learns in a few steps, so that
# there is something for a merge to lose. Peaks of anonymous memory (RssAnon) are sampled while a stage runs.
#   usage: OUT=folder gpu_golden_path.sh TOKENIZER_FOLDER first|second [--set KEY=VALUE …]
# first: make the model, fetch … export. second: the same training again, and once more stopped and resumed.
set -euo pipefail
tokenizer=$1
part=$2
shift 2
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
given=(--config configs/sft_qlora.yaml --set model.source=folder --set model.name_or_path=models/random-8b
    --set model.revision=null --set 'dataset.raw_files=["data/raw/learnable.jsonl"]' --set dataset.splits_dir=data/splits/learnable
    --set training.max_length=512 --set training.learning_rate=5e-4 --set training.max_steps=30
    --set training.lr_scheduler_type=constant --set training.eval_steps=15 --set training.save_steps=10
    --set evaluation.max_new_tokens=16 --set evaluation.max_examples=32 --set card.vram_gib=23 "$@")
clock() { printf '%s s\n' "$SECONDS"; }
hashes() { sha256sum runs/*/adapter/adapter_model.safetensors; }

# Runs solotune; says the most anonymous memory that it had.
watched() {
    local pid now most=0
    python3 -P -m solotune "$@" &
    pid=$!
    while kill -0 "$pid" 2> /dev/null; do
        now=$(awk '/RssAnon/ {print $2}' "/proc/$pid/status" 2> /dev/null || echo 0)
        ((${now:-0} <= most)) || most=$now
        sleep 0.05
    done
    printf '%s: at most %s MB of anonymous memory\n' "$1" "$((most / 1000))"
    wait "$pid"
}
mkdir -p data/raw models
python3 -P - "$tokenizer" << 'EOF'
import json, random, sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import train_speed
from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.chat import ChatEncoder
encoder, draw = ChatEncoder.open(ModelDir(Path(sys.argv[1]))), random.Random(0)
words = train_speed.single_token_words(encoder)
with Path("data/raw/learnable.jsonl").open("w") as file:
    for number in range(1500):
        length = max(32, min(500, int(draw.lognormvariate(5.3, 0.8))))
        row = train_speed.row_of(encoder, words, length, draw, learnable=True)
        print(json.dumps({"id": f"row-{number}", "messages": row}), file=file)
EOF

if [[ $part == first ]]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    [[ -d models/random-8b ]] || python3 benchmarks/random_8b.py "$tokenizer" models/random-8b
    clock
    python3 -P -m solotune fetch "${given[@]}"
    python3 -P -m solotune prepare "${given[@]}"
    python3 -P -m solotune plan "${given[@]}" --vram 24
    python3 -P -m solotune plan "${given[@]}"
    clock
    watched train "${given[@]}"
    clock
    watched evaluate --run latest
    clock
    watched export --run latest --merge
    clock
    cp runs/2*/export/export.json runs/2*/eval_report.json "$OUT"
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
    until (($(find runs -name metrics.jsonl | wc -l) == 3)) && grep -qs '"step": 12' "$(find runs -name metrics.jsonl | sort | tail -n 1)"; do
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
