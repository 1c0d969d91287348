#!/usr/bin/env bash
# Makes this folder: a Vim, dense and pruned without any training, on CamVid (three seeds) and nuclei (one).
# The data have to be in data/ (docs/data.md); run it in the environment that `make setup` made:
# `PATH="$PWD/.venv/bin:$PATH" bash docs/example_comparison/run.sh`.
# Three hours of training on one core, unless `tools/evidence.py` was there before: the dense checkpoints are the same.
# The comparison takes half an hour. Interrupted, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

DENSE=work_dirs/evidence
OUT=work_dirs/example_comparison
HERE=docs/example_comparison
# One thread: a scan loops, and more threads make it slower.
export OMP_NUM_THREADS=1

python tools/evidence.py recipes --settings vim-camvid --phase free --only '*/dense/*' --out "$OUT/dense"
python tools/evidence.py recipes --settings vim-nuclei --phase free --only '*/dense/*' --seeds 0 --out "$OUT/dense"

models=()
add() { # add CHECKPOINT CONFIG...: each config with that checkpoint
    local checkpoint=$1 config
    shift
    for config in "$@"; do models+=("configs/vim/$config.py:$DENSE/$checkpoint"); done
}
for seed in 0 1 2; do
    add "vim-camvid/dense/seed$seed/iter_1200.pth" \
        vim-mini12{,-flops20,-flops40,-top70}_upernet_1xb8-1200i_camvid-192x256
done
add vim-nuclei/dense/seed0/iter_1500.pth vim-mini12{,-flops40,-top70}_mask-rcnn_1xb4-1500i_nuclei
# Latency wants a machine with nothing else to do.
python tools/compare.py "${models[@]}" --per-class --untrained --runs 20 --out "$OUT/compare"
cp "$OUT"/compare/compare{,-classes}.csv "$OUT"/compare/compare.{html,json,tex} "$OUT"/compare/*.png "$HERE"
sed -i "/written by tools\/compare.py/q" "$HERE/README.md"
cat "$OUT/compare/compare.md" >>"$HERE/README.md"
