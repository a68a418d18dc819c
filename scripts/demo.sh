#!/usr/bin/env bash
# Train lenet-bn on the built-in sample of Fashion-MNIST, evaluate it, predict a few pictures.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n%s\n' "$*"; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

say "1. Training: striate train fashion-mnist-sample --model lenet-bn"
result=$(striate train fashion-mnist-sample --model lenet-bn --json)
run=$(field run <<<"$result")

say "2. Evaluation: striate evaluate $run/best.safetensors fashion-mnist-sample"
striate evaluate "$run/best.safetensors" fashion-mnist-sample

say "3. Prediction: striate predict $run/best.safetensors $run/pictures"
python scripts/demo_pictures.py "$run/pictures"
striate predict "$run/best.safetensors" "$run/pictures" --top 3

picture=$(find "$run/pictures" -name '*.png' | sort | head -n 1)
say "4. What it sees: striate explain $run/best.safetensors $picture --out $run/explain.html"
striate explain "$run/best.safetensors" "$picture" --out "$run/explain.html"

say "Look at $run:"
printf '  %-28s %s\n' \
    report.html "how the training went, on one page" \
    explain.html "what the net sees in one picture, down to the sums" \
    curves.png "loss, accuracy and learning rate over the epochs" \
    confusion.png "which classes are taken for which" \
    log.csv "the same as numbers, a line an epoch" \
    config.toml "every setting: striate train --config $run/config.toml repeats the run" \
    best.safetensors "the model" \
    pictures/ "the pictures predicted above; the file name says what each shows"
