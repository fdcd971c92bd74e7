#!/bin/bash
# Trains on Slurm:  sbatch --nodes=4 --gpus-per-node=8 slurm.sh CONFIG --run-dir /shared/runs/NAME ...
#
# Options on sbatch's command line win over those here.
#SBATCH --job-name=flaxmill
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# srun does not inherit the first since Slurm 22.05.
if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi

# The tasks save when SIGTERM comes. This shell may get it too, and must live until they have ended.
trap : TERM

# The tasks of a job end together by themselves. 90 seconds after the first has ended, --wait kills one that is frozen:
# later than the 60 after which the others have named a task that died. --label says whose line it is.
srun --kill-on-bad-exit=0 --wait=90 --label flaxmill train "$@"
code=$?

# 75: preempted, and all is saved. Slurm starts the job again without this only where slurm.conf says RequeueExit=75.
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
