#!/usr/bin/env bash
# Train on several GPUs of one machine:   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# On several machines start it on each, with NNODES, its own NODE_RANK (0, 1, ...) and the MASTER_ADDR and PORT of rank 0.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
need_arguments 2 'CONFIG GPUS [options of tools/train.py]' "$@"
start_torchrun train.py "$2" "$1" "${@:3}"
