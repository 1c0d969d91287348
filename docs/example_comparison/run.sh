#!/usr/bin/env bash
# Makes this folder: a Vim, dense and pruned without any training, on CamVid and nuclei, three seeds of each.
# The data have to be in data/ (docs/data.md); run it in the environment that `make setup` made:
# `PATH="$PWD/.venv/bin:$PATH" bash docs/example_comparison/run.sh`.
# Five hours of training on one core, unless `tools/evidence.py` was there before: the dense checkpoints are the same.
# The comparison takes an hour. Interrupted, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

DENSE=work_dirs/evidence
OUT=work_dirs/example_comparison
HERE=docs/example_comparison
# One thread: a scan loops, and more threads make it slower.
export OMP_NUM_THREADS=1

python tools/evidence.py recipes --settings vim-camvid vim-nuclei --phase free --only '*/dense/*' --out "$OUT/dense"

models=()
add() { # add DENSE_CHECKPOINT CONFIG...: each config with the checkpoint of every seed
    local checkpoint=$1 config seed
    shift
    for config in "$@"; do
        for seed in 0 1 2; do
            models+=("configs/vim/$config.py:$DENSE/${checkpoint/SEED/$seed}")
        done
    done
}
add vim-camvid/dense/seedSEED/iter_1200.pth \
    vim-mini12{,-flops20,-flops40,-merge-flops40,-top70}_upernet_1xb8-1200i_camvid-192x256
add vim-nuclei/dense/seedSEED/iter_1500.pth vim-mini12{,-flops40,-top70}_mask-rcnn_1xb4-1500i_nuclei
# Latency wants a machine with nothing else to do.
python tools/compare.py "${models[@]}" --per-class --untrained --runs 40 --out "$OUT/compare"
cp "$OUT"/compare/compare.{csv,html,json,tex} "$OUT"/compare/*.png "$HERE"
sed -i "/written by tools\/compare.py/q" "$HERE/README.md"
cat "$OUT/compare/compare.md" >>"$HERE/README.md"
