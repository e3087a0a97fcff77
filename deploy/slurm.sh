#!/usr/bin/env bash
# A sweep as one Slurm job: sbatch deploy/slurm.sh [options of `scaling sweep`], from the checkout.
#
# A Ray node on each node of the job, the sweep on the first. It stops with checkpoints ten minutes before the job's
# time is over; the same command, submitted again, goes on. The checkout and its runs/ lie where all nodes see them.
# LAUNCH=start does without `ray symmetric-run`, whose end stops every Ray process of yours on these nodes.
#SBATCH --job-name=scaling
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the checkout}"

export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# One secret for this job alone; srun hands it to the nodes. Nobody sees the environment of your processes.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
# Nodes that start a little later than the first are waited for.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

nodes=${SLURM_JOB_NUM_NODES:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # reads to the end, as head does not
# Ray wants the address, not the name; a name may stand for the loopback on its own node.
ip=$(srun --nodes=1 --ntasks=1 -w "$first" hostname -I | awk '{print $1}')
address="$ip:${RAY_PORT:-6379}"
node_options=(--num-cpus "${SLURM_CPUS_ON_NODE:-1}" --disable-usage-stats)

sweep=(scaling sweep --address "$address")
if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
  sweep+=(--max-hours "$(awk -v left=$((SLURM_JOB_END_TIME - $(date +%s) - 600)) 'BEGIN {printf "%.3f", (left > 0 ? left : 0) / 3600}')")
fi
sweep+=("$@")

if [ "${LAUNCH:-symmetric}" = symmetric ]; then
  srun ray symmetric-run --address "$address" --min-nodes "$nodes" "${node_options[@]}" -- "${sweep[@]}"
  exit
fi

# The same by hand. The sweep is a child of this shell, so that `scancel --batch --signal=TERM` reaches it.
trap 'kill $(jobs -pr) 2>/dev/null || true' EXIT
srun --nodes=1 --ntasks=1 -w "$first" ray start --head --block --node-ip-address="$ip" \
  --port="${address##*:}" --dashboard-host=127.0.0.1 "${node_options[@]}" &
# How many nodes of Ray there are; none while it starts.
count() { ray status --address "$address" 2>/dev/null | grep -c '^ 1 node_' || true; }
until [ "$(count)" -ge 1 ]; do sleep 2; done
if [ "$nodes" -gt 1 ]; then
  srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) -x "$first" \
    ray start --block --address="$address" "${node_options[@]}" &
  until [ "$(count)" -ge "$nodes" ]; do sleep 2; done
fi
"${sweep[@]}" &
sweep_pid=$! code=0
trap 'kill -TERM "$sweep_pid"' TERM
wait "$sweep_pid" || code=$?
# A signal ends the wait before the sweep has saved its checkpoints.
while kill -0 "$sweep_pid" 2>/dev/null; do wait "$sweep_pid" || code=$?; done
exit "$code"
