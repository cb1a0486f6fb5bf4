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

# After SIGTERM the ranks have TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds (30 by default) to save.
exec torchrun \
  --nnodes "${NODES:-1}" \
  --nproc-per-node "${RANKS:-gpu}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29500}" \
  --rdzv-id "${JOB:-rt1}" \
  -m rt1 train "$@"
