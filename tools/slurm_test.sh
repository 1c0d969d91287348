#!/usr/bin/env bash
# Test under Slurm:   GPUS=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
need_arguments 4 'PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]' "$@"
start_srun test.py "$@"
