#!/bin/sh
# Makes nano from nothing on two cores: voices (about an hour), then training (two hours and forty minutes), the folder, and
# its measurement. Usage: sh run.sh [VENV] [WORK] [OUT]     after setup.sh; `sh run.sh` again begins again
set -e
cd "$(dirname "$0")"
V=${1:-/root/v/train}/bin
export NANO_WORK=${2:-/root/nano} OMP_NUM_THREADS=1
OUT=${3:-$NANO_WORK/out}
# Keeping freed memory saves a third of the time of large tensors.
export MALLOC_MMAP_THRESHOLD_=8000000000 MALLOC_TRIM_THRESHOLD_=8000000000
P=$V/python
T="$V/torchrun --nproc-per-node 2"                # on both cores, with the mean of two gradients
say() { echo "== $(date +%H:%M:%S) $*"; }

say voices
$P synthesise.py kokoro train --shard 0 --minutes 25 &
$P synthesise.py kokoro train --shard 1 --minutes 25 & wait
{
    $P synthesise.py hibari train --count 1500
    $P synthesise.py hibari train --count 900 --shard salad --salad
    $P synthesise.py espeak train --count 3500
    $P synthesise.py espeak train --count 1500 --shard salad --salad
} &
$P synthesise.py flite train --count 1800
$P synthesise.py flite train --count 500 --shard salad --salad
$P synthesise.py festival train --count 1200
$P synthesise.py kokoro heldout --count 260 --minutes 12
$P synthesise.py espeak heldout --count 220
$P synthesise.py flite heldout --count 60
$P synthesise.py festival heldout --count 60
wait
$P warp.py --count 2500 --shard 0 &               # other speakers, from all of the above
$P warp.py --count 2500 --shard 1; wait
$P tokenizer.py

say codec
$T train_codec.py joint --minutes 15                  # everything -> codec_frozen.pt
$T train_codec.py polish --minutes 8                  # a decoder for the next line to start from: codec.pt
$T train_codec.py hear --minutes 30 --rate 8e-4       # the encoder learns phonemes

say sessions
$P build_sessions.py "$NANO_WORK/heldout" --seed 99 --count 96 --split heldout
$P build_sessions.py "$NANO_WORK/sessions1" --seed 1 --count 9000 &
$P build_sessions.py "$NANO_WORK/sessions2" --seed 2 --count 9000; wait

say language model
$T train_lm.py --minutes 58 --batch 24 --dropout .05  # -> lm.pt
say decoder
$T train_codec.py polish --minutes 20 --resume --rate 1e-3      # -> codec.pt

say measurement
$P export.py "$OUT" --mimi "$NANO_WORK/codec.pt" --lm "$NANO_WORK/lm.pt"
$P check_official.py "$OUT" ../examples/hello.wav "$NANO_WORK/reply.wav"
$P evaluate.py "$OUT" --count 300
$P evaluate.py "$OUT" --count 300 --seed 6 --out "$NANO_WORK/report_b"
$P model_card.py "$OUT" "$NANO_WORK/report.json" "$NANO_WORK/report_b.json"
say done
