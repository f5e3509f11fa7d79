#!/usr/bin/env bash
# Nothing lost, on a GPU: a random 1B model, LoRA and QLoRA, packed, with dropout and without, 8-bit and paged optimisers,
# recomputed layers: the same adapter from two runs, from `verify`'s and from those stopped by SIGTERM and resumed. With
# --kills instead: from six that were killed at random moments after their first save.
# Run in the root of a checkout; `python3` must hold what pyproject.toml asks for. Every line of the result has the
# command and the adapter's sha256; summary in $OUT/nothing_lost.json. Runs share the card, and the second ones compile
# everything anew, in a cache of their own.
#   usage: OUT=folder gpu_nothing_lost.sh TOKENIZER_FOLDER [--kills] [--small]
set -euo pipefail
tokenizer=$(realpath "$1")
small='' kills=''
for option in "${@:2}"; do
    case $option in
        --small) small=1 ;;
        --kills) kills=1 ;;
        *) echo "unknown option $option" >&2 && exit 2 ;;
    esac
done
root=$PWD
: "${OUT:=$root}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=$work/inductor
mkdir -p "$work/data" "$work/models" "$OUT"
ln -s "$root/configs" "$work/configs"
ln -s "$root/data/raw" "$work/data/raw"
cd "$work"
lines=$work/lines.tsv
clock() { printf -- '-- %s: %s s\n' "$1" "$SECONDS"; }

given=(--set model.source=folder --set model.name_or_path=random-1b --set model.revision=null
    --set training.max_length=512 --set training.max_steps=8 --set training.save_steps=3 --set training.eval_steps=4
    --set training.per_device_train_batch_size=1 --set training.gradient_accumulation_steps=8
    --set 'evaluation.metrics=[]')
if [[ $small ]]; then # on a processor, to try the way
    given+=(--set device=cpu --set training.max_length=256 --set training.gradient_accumulation_steps=1)
else
    # Eight side by side have room on a card of 80 GB.
    given+=(--set card.vram_gib=8.5)
fi
lora=(--config configs/sft_lora.yaml "${given[@]}")
qlora=(--config configs/sft_qlora.yaml "${given[@]}")
kinds=(lora-dropout lora-plain qlora-dropout qlora-plain qlora-8bit qlora-paged qlora-recomputed)
arguments_of() {
    if [[ $1 == lora-* ]]; then arguments=("${lora[@]}"); else arguments=("${qlora[@]}"); fi
    [[ $1 == *-plain ]] || arguments+=(--set lora.lora_dropout=0.05)
    case $1 in
        *-8bit) arguments+=(--set training.optim=adamw_8bit) ;;
        *-paged) arguments+=(--set training.optim=paged_adamw_8bit) ;;
        *-recomputed) arguments+=(--set training.activation_checkpointing=true) ;;
    esac
}

solotune() { python3 -P -m solotune "$@"; }
adapter() { sha256sum "runs/$1/adapter/adapter_model.safetensors" | cut -d ' ' -f 1; }
# NAME, the command, the sha256 or what went wrong
note() {
    printf '%s\t%s\t%s\n' "$1" "$3" "$2" >> "$lines"
    printf '%-34s %s\n  %s\n' "$1" "$3" "$2"
}

# A run's id is fixed by what it is, so that each is found again.
id() { printf '20260101-000000-%s-%s' "$1" "$(sha256sum <<< "$1" | cut -c 1-6)"; }
train() { # NAME, then the command's own arguments
    local run
    run=$(id "$1")
    if solotune train "${@:2}" --run-id "$run" > "$work/$1.log" 2>&1; then
        note "$1" "solotune train ${*:2}" "$(adapter "$run")"
    else
        note "$1" "solotune train ${*:2}" "failed: $(tail -n 1 "$work/$1.log" | tr '\t' ' ')"
    fi
}

train_all() { # NUMBER: every kind, side by side
    local kind pids=()
    for kind in "${kinds[@]}"; do
        arguments_of "$kind"
        train "$kind-$1" "${arguments[@]}" & pids+=($!)
    done
    wait "${pids[@]}"
}

stop_and_go_on() { # NAME, then the command's own arguments
    local name=$1 run code=0 pid
    run=$(id "$name")
    solotune train "${@:2}" --run-id "$run" > "$work/$name.log" 2>&1 &
    pid=$!
    until grep -qs '"step": 2' "runs/$run/metrics.jsonl" || ! kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
    kill -TERM "$pid" 2> /dev/null || true
    wait "$pid" || code=$?
    solotune train --resume "$run" >> "$work/$name.log" 2>&1 || true
    note "$name" "solotune train ${*:2}; SIGTERM after step 2 (exit code $code); solotune train --resume" \
        "$(adapter "$run" 2> /dev/null || echo "failed: $(tail -n 1 "$work/$name.log" | tr '\t' ' ')")"
}

verify() {
    local code=0
    solotune verify --run "$(id qlora-dropout-1)" --steps 6 > "$work/verify.log" 2>&1 || code=$?
    cat "$work/verify.log"
    note verify "solotune verify --run … --steps 6 (QLoRA, dropout)" "exit code $code"
}

# Six side by side, each with an undisturbed training of its own to be held against.
killed() {
    local seed code pids=()
    arguments_of qlora-dropout
    for seed in 1 2 3 4 5 6; do
        python3 -P "$root/tests/faults/kills.py" "${arguments[@]}" --set training.save_steps=1 --kills 1 --late 1 \
            --seed "$seed" --json "$work/kills-$seed.json" > "$work/kills-$seed.log" 2>&1 &
        pids+=($!)
    done
    for seed in 1 2 3 4 5 6; do
        code=0
        wait "${pids[seed - 1]}" || code=$?
        head -n 1 "$work/kills-$seed.log"
        note "kill-$seed" "tests/faults/kills.py … --kills 1 --seed $seed (QLoRA, dropout; exit code $code)" \
            "$(tail -n 1 "$work/kills-$seed.log" | tr '\t' ' ')"
    done
}

python3 -P "$root/benchmarks/train_memory.py" --tokenizer "$tokenizer" ${small:+--small} \
    --write llama-3.2-1b random-1b
solotune fetch "${lora[@]}"
solotune prepare "${lora[@]}" > "$work/prepare.log" 2>&1
clock 'model and rows'

if [[ $kills ]]; then
    killed
    clock 'kills'
else
    train_all 1
    clock 'first runs'
    export TORCHINDUCTOR_CACHE_DIR=$work/inductor-2
    train_all 2
    clock 'second runs'
    for kind in qlora-dropout qlora-8bit qlora-paged qlora-recomputed; do
        arguments_of "$kind"
        stop_and_go_on "$kind-stopped" "${arguments[@]}" &
    done
    verify &
    wait
    clock 'stopped and resumed, verify'
fi

for run in runs/*/; do
    name=$(basename "$run")
    [[ $name != *qlora-dropout-1-* ]] || cp "$run/manifest.json" "$OUT/nothing_lost.manifest.json"
done
name=nothing_lost${kills:+_kills}
cat "$work"/*.log > "$OUT/$name.log"
mkdir -p "$work/runs"
python3 -P - "$lines" "$work" "$OUT/$name.json" "${kills:+kills}" << 'EOF'
import datetime
import json
import pathlib
import sys

from solotune import environment

lines, work, out = map(pathlib.Path, sys.argv[1:4])
rows = [line.split("\t") for line in lines.read_text().splitlines()]
hashes = {name: found for name, found, _ in rows}
manifests = {path.parent.name: json.loads(path.read_text()) for path in work.glob("runs/2*/manifest.json")}
equal = {
    kind: hashes.get(f"{kind}-1") == hashes.get(f"{kind}-2") and len(hashes.get(f"{kind}-1", "")) == 64
    for kind in (name.removesuffix("-1") for name in hashes if name.endswith("-1") and name != "kill-1")
}
for name in (name for name in hashes if name.endswith("-stopped")):
    equal[f"{name} and resumed"] = hashes[name] == hashes.get(f"{name.removesuffix('-stopped')}-1")
verified = next((m["verification"] for m in manifests.values() if m.get("verification")), None)
killed = [json.loads(file.read_text()) for file in sorted(work.glob("kills-*.json"))]
if sys.argv[4]:
    kills = [kill for found in killed for kill in found["kills"]]
    equal["undisturbed, six times"] = len(killed) == 6 and len({found["adapter"] for found in killed}) == 1
    equal["killed and resumed"] = len(kills) == 6 and all(kill["equal"] for kill in kills)
    equal["each killed one resumed from a checkpoint"] = all(any(kill["resumed_from"]) for kill in kills)
else:
    equal["verify"] = bool(verified) and hashes.get("verify") == "exit code 0"
report = {
    "date": datetime.date.today().isoformat(),
    "script": "benchmarks/gpu_nothing_lost.sh",
    "device": environment.gpus(),
    "libraries": environment.library_versions(),
    "model": "random weights, shapes of Llama 3.2 1B; packs of 512 tokens, 8 in a step, 8 steps",
    "equal": equal,
    "runs": [{"name": name, "adapter_sha256": found, "command": command} for name, found, command in rows],
    "layouts": {name: m["layout"] for name, m in manifests.items()},
    "rehearsals": {name: m["rehearsal"] for name, m in manifests.items()},
    "verification": verified,
    "kills": killed,
}
out.write_text(json.dumps(report, indent=1) + "\n")
print(json.dumps(equal, indent=1))
sys.exit(not all(equal.values()))
EOF
