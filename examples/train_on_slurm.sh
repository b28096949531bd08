#!/bin/bash
# Train MIRNet-v2 as its authors do, on two machines with eight GPUs each:
#   sbatch examples/train_on_slurm.sh my_pairs build/mirnet-v2
# The processes share each batch, so that the run equals that of one process; given again, the
# command resumes. Ray users: one ScalingConfig worker per process, each running the same command
# with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, as torchrun sets them.
#SBATCH --job-name=mirnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
set -euo pipefail
data=$1
out=$2
# no pipe to head, which may end before scontrol has written: an error with pipefail
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    --no-python mirnet train --preset mirnet-v2 --data "$data" --out "$out" \
    --precision bf16 --workers 8
