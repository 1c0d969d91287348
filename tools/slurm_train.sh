#!/usr/bin/env bash
# Train under Slurm:   GPUS=16 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
need_arguments 3 'PARTITION JOB_NAME CONFIG [options of tools/train.py]' "$@"
start_srun train.py "$@"
