#!/bin/bash
# Train on one machine or on several. Run the same command on each machine, and again to resume:
#
#   NODES=2 HEAD=host0 examples/launch/train.sh --preset paper --data /data/fractal --out /shared/runs/big
#
# Add --dry-run to check data, batch and memory first. The options are those of rt1 train.
#
#   NODES  machines, 1 by default
#   HEAD   name or address of the first machine, which all others reach
#   PORT   free port there
#   RANKS  processes per machine: a number, or "gpu" (the default), one for each GPU
#   JOB    name of this start, the same on all machines

set -euo pipefail

refuse() { # NAME RULE CURE
  echo "train.sh: $1 is '${!1}', must be $2. $3" >&2
  exit 2
}

NODES=${NODES:-1} RANKS=${RANKS:-gpu} PORT=${PORT:-29500} HEAD=${HEAD:-}
[[ $NODES =~ ^[1-9][0-9]{0,5}$ ]] || refuse NODES "the number of machines" "Use NODES=2"
[[ $RANKS =~ ^([1-9][0-9]{0,5}|gpu|cpu|auto)$ ]] || refuse RANKS "a number of processes or gpu" "Use RANKS=8"
if [[ ! $PORT =~ ^[1-9][0-9]{0,4}$ ]] || ((PORT > 65535)); then
  refuse PORT "a port in 1..65535" "Use PORT=29500"
fi
[[ $NODES == 1 || -n $HEAD ]] || refuse HEAD "the first of $NODES machines" "Use HEAD=host0"
if [[ -n $HEAD ]] && command -v getent >/dev/null; then
  getent ahosts "$HEAD" >/dev/null ||
    refuse HEAD "a name or address that this machine knows, without port" "Use HEAD=host0"
fi

# After SIGTERM the ranks have TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds (30 by default) to save.
exec torchrun \
  --nnodes "$NODES" \
  --nproc-per-node "$RANKS" \
  --rdzv-backend c10d \
  --rdzv-endpoint "${HEAD:-localhost}:$PORT" \
  --rdzv-id "${JOB:-rt1}" \
  -m rt1 train "$@"
