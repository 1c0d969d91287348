#!/usr/bin/env bash
# Test on several GPUs (machines: see dist_train.sh):   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
need_arguments 3 'CONFIG CHECKPOINT GPUS [options of tools/test.py]' "$@"
start_torchrun test.py "$3" "$1" "$2" "${@:4}"
