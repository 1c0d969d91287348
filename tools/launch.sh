# What dist_*.sh and slurm_*.sh share: they source this file.
# shellcheck shell=bash
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

need_arguments() { # need_arguments COUNT 'THEIR NAMES' "$@": ends with the usage if there are fewer
    if [ $(($# - 2)) -lt "$1" ]; then
        echo "usage: $0 $2" >&2
        exit 2
    fi
}

start_torchrun() { # start_torchrun TOOL GPUS ARGUMENTS...: GPUS processes on this machine, one of NNODES
    local tool=$1 gpus=$2
    shift 2
    "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$gpus" \
        "$TOOLS/$tool" "$@" --launcher pytorch
}

start_srun() { # start_srun TOOL PARTITION JOB_NAME ARGUMENTS...: GPUS processes, GPUS_PER_NODE on each machine
    local tool=$1 partition=$2 job_name=$3 gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8}
    shift 3
    if [ "$gpus" -lt "$gpus_per_node" ]; then gpus_per_node=$gpus; fi
    # SRUN_ARGS holds several words. shellcheck disable=SC2086
    srun \
        --partition="$partition" \
        --job-name="$job_name" \
        --gres="gpu:$gpus_per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$gpus_per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$TOOLS/$tool" "$@" --launcher slurm
}
