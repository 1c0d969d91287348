#!/usr/bin/env bash
# Makes this folder: a dense Vim against itself pruned, merged and fused at three FLOPs levels, on the small data sets.
# For each task one dense model is trained; it and its nine reduced versions are fine-tuned from there, all alike.
# Run it in the environment that `make setup` made: `PATH="$PWD/.venv/bin:$PATH" bash docs/example_comparison/run.sh`.
# About an hour and a half on one core. Interrupted, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

WORK=work_dirs/example_comparison
HERE=docs/example_comparison
LEVELS=(0.2 0.3 0.4)
REDUCTIONS=(prune merge evit)
# The defaults of when the numbers were made; today's are better (docs/findings.md).
AS_THEN=(model.backbone.pruning.layers='[1]' model.backbone.pruning.importance=clip
    model.backbone.pruning.conv_fill=zero model.backbone.pruning.scan_fill=zero)
# One thread: a scan loops, and more threads make it slower. glibc is to keep memory instead of returning it each step.
export OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000

train() { # train CONFIG WORK_DIR ITERATIONS OPTIONS...: unless that is done
    local config=$1 work_dir=$2 iterations=$3
    shift 3
    [ ! -f "$work_dir/iter_$iterations.pth" ] || return 0
    mkdir -p "$work_dir"
    echo "training $work_dir"
    python tools/train.py "$config" --work-dir "$work_dir" --resume --cfg-options randomness.seed=0 \
        train_cfg.max_iters="$iterations" train_cfg.val_begin="$((iterations + 1))" \
        param_scheduler.1.end="$iterations" default_hooks.checkpoint.interval=50 \
        default_hooks.checkpoint.max_keep_ckpts=2 "$@" >>"$work_dir/log.txt" 2>&1 ||
        { tail -n 5 "$work_dir/log.txt" >&2; return 1; }
}

fine_tune() { # fine_tune CONFIG START WORK_DIR LEARNING_RATE OPTIONS...
    local config=$1 start=$2 work_dir=$3 learning_rate=$4
    shift 4
    train "$config" "$work_dir" 150 load_from="$start" optim_wrapper.optimizer.lr="$learning_rate" \
        param_scheduler.0.end=10 param_scheduler.1.begin=10 "$@"
}

make_models() { # make_models TASK CONFIG DENSE_ITERATIONS LEARNING_RATE
    local task=$1 config=$2 iterations=$3 learning_rate=$4 level reduction
    train "$config" "$WORK/$task/start" "$iterations"
    local start=$WORK/$task/start/iter_$iterations.pth
    fine_tune "$config" "$start" "$WORK/$task/dense" "$learning_rate"
    for reduction in "${REDUCTIONS[@]}"; do
        for level in "${LEVELS[@]}"; do
            fine_tune "$config" "$start" "$WORK/$task/$reduction-$level" "$learning_rate" \
                model.backbone.pruning.reduction="$reduction" "${AS_THEN[@]}" \
                model.backbone.pruning.flops_reduction="$level" model.backbone.pruning.input_shape='[128,128]'
        done
    done
}

python tools/dataset_tools/make_mini.py
make_models segmentation configs/vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py 1200 6e-4
make_models detection configs/vim/vim-mini_mask-rcnn_1xb8-300i_mini-coco-128x128.py 600 2e-4

models=()
for task in segmentation detection; do
    models+=("$WORK/$task/dense")
    for reduction in "${REDUCTIONS[@]}"; do
        for level in "${LEVELS[@]}"; do
            models+=("$WORK/$task/$reduction-$level")
        done
    done
done
# Latency wants a machine with nothing else to do.
python tools/compare.py "${models[@]}" --untrained --runs 40 --out "$WORK/compare"
cp "$WORK"/compare/compare.{csv,html,json,tex} "$WORK"/compare/*.png "$HERE"
sed -i "/written by tools\/compare.py/q" "$HERE/README.md"
cat "$WORK/compare/compare.md" >>"$HERE/README.md"
