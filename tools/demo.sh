#!/usr/bin/env bash
# From nothing to a table: make the small data sets, train a dense and a pruned PlainMamba for both tasks, test them at
# several keep ratios, write tables and plots to work_dirs/demo. Interrupted, it goes on where it was when run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=work_dirs/demo
DETECTION=mask-rcnn_1xb8-300i_mini-coco-128x128
SEGMENTATION=upernet_1xb8-450i_mini-ade-128x128
RATIOS=(1.0 0.7 0.5 0.3)
# One thread per training, two trainings side by side: a scan loops in Python, and more threads make it slower.
export OMP_NUM_THREADS=1

run_logged() { # run_logged NAME COMMAND...: output to $OUT/NAME.log, its last lines shown when it fails
    local log="$OUT/$1.log"
    shift
    "$@" >"$log" 2>&1 || { tail -n 5 "$log" >&2; echo "demo: failed; the whole log is $log" >&2; return 1; }
}

train() { # train NAME...: one after the other; a finished training is not repeated, a broken one goes on
    local name
    for name in "$@"; do
        run_logged "$name" python tools/train.py "configs/plain_mamba/$name.py" --work-dir "$OUT/$name" --resume || return 1
        echo "demo: trained $name"
    done
}

compare() { # compare TASK HEAD-AND-DATA OPTIONS...
    local task=$1 head=$2
    shift 2
    python tools/compare.py "$OUT/plain-mamba-mini_$head" "$OUT/plain-mamba-mini-top70_$head" \
        --keep-ratio "${RATIOS[@]}" --untrained --out "$OUT/$task" "$@"
}

in_job() { # in_job COMMAND...: bash acts on a signal only between its commands, but at once while it waits for a job
    "$@" &
    wait "$!"
}

both() { # both PID PID: wait for both, fail if one failed
    local failed=0
    wait "$1" || failed=1
    wait "$2" || failed=1
    return "$failed"
}

show_progress() { # the newest line of every log that is being written, every half minute
    local log line
    while sleep 30; do
        for log in "$OUT"/plain-mamba-mini*.log; do
            [ -n "$(find "$log" -newermt '-30 seconds' 2>/dev/null)" ] || continue
            line=$(grep -oE 'Iter\((train|val)\) *\[ *[0-9]+/[0-9]+\].*eta: [0-9:]+' "$log" | tail -n 1) || continue
            echo "demo: $(basename "$log" | cut -d_ -f1,2): $(sed -E 's/base_lr.*eta/eta/; s/ +/ /g' <<<"$line")"
        done
    done
}

stop_children() { # the jobs of this script with all that they started: each has a process group of its own
    local jobs groups
    jobs=$(jobs -p)
    [ -n "$jobs" ] || return 0
    groups=$(sed 's/^/-/' <<<"$jobs")
    disown -a # or bash reports each as terminated, the last of them below the result
    # shellcheck disable=SC2086  # several of them
    kill -TERM -- $groups 2>/dev/null || true
    for _ in {1..100}; do # ten seconds to end by themselves
        kill -0 -- $groups 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL -- $groups 2>/dev/null || true
}

stop() { # stop SIGNAL: end with the children, as if the signal had not been caught
    trap - EXIT "$1"
    stop_children
    echo 'demo: interrupted; the same command goes on from here' >&2
    kill -"$1" "$BASHPID"
}

mkdir -p "$OUT"
set -m # job control: every job gets its process group
trap stop_children EXIT
for signal in HUP INT TERM; do
    trap "stop $signal" "$signal"
done
in_job python tools/dataset_tools/make_mini.py
echo 'demo: four trainings, two at a time, then the tests: about 15 minutes on two cores'
show_progress &
# A long and a short one for each core.
train "plain-mamba-mini_$DETECTION" "plain-mamba-mini-top70_$SEGMENTATION" & first=$!
train "plain-mamba-mini-top70_$DETECTION" "plain-mamba-mini_$SEGMENTATION" & second=$!
both "$first" "$second"

echo 'demo: testing at several keep ratios'
run_logged detection compare detection "$DETECTION" --runs 0 & first=$!
run_logged segmentation compare segmentation "$SEGMENTATION" --runs 0 & second=$!
both "$first" "$second"
# Latency last, with nothing beside it: all models of a task in one run, so that their figures compare.
in_job compare detection "$DETECTION"
in_job compare segmentation "$SEGMENTATION"
echo "demo: tables and plots are in $OUT/detection and $OUT/segmentation"
