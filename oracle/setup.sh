#!/usr/bin/env bash
# Makes the oracle's own virtual environment: the official `moshi` package on CPU torch.
# Usage: oracle/setup.sh [FOLDER]     (default: .venv-oracle)
set -euo pipefail
venv="${1:-.venv-oracle}"
python="${PYTHON:-python3.11}"
"$python" -m venv "$venv"
pip="$venv/bin/pip"
# `moshi` is installed without its dependency pins (they hold torch back); what it imports follows.
"$pip" install --quiet torch==2.13.0
"$pip" install --quiet --no-deps moshi==0.2.13
"$pip" install --quiet numpy einops safetensors sentencepiece huggingface_hub sphn sounddevice aiohttp \
    rustymimi==0.4.1 transformers gguf==0.19.0 bitsandbytes==0.50.2 pyloudnorm==0.2.0 tqdm
NO_TORCH_COMPILE=1 "$venv/bin/python" -c "import moshi.models, rustymimi, transformers, gguf, bitsandbytes, pyloudnorm; print('oracle ready')"
