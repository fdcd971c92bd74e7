#!/bin/sh
# Trains under Open MPI:  MPIRUN_FLAGS="-n 4 --map-by ppr:1:node --hostfile hosts" sh mpirun.sh CONFIG --run-dir DIR ...
#
# SIGTERM to this script saves and stops the run: the script ends with 75. mpirun itself kills the processes one second
# after it gets SIGTERM, before they have saved. SIGUSR1 it passes on, and each process's shell makes SIGTERM of that.

# A process's shell gives mpirun the exit code of its training. TERM=dumb: mpirun's terminals are no place for a bar.
# shellcheck disable=SC2016
wait_for='
wait_for() {
    code=127 alive=yes
    while [ "$alive" ]; do
        kill -0 "$1" 2>/dev/null || alive=
        wait "$1"; got=$? # a signal ends it early
        [ "$got" -eq 127 ] || code=$got # 127: its code is known already
    done
    return "$code"
}'
# shellcheck disable=SC2016
process='
trap "" USR1
TERM=dumb flaxmill train "$@" </dev/null &
trap "kill -TERM $!" USR1
wait_for $!'

# By default mpirun binds a process to one core, or to one socket: it would read its data there, and feed its GPUs.
# shellcheck disable=SC2086
mpirun $MPIRUN_FLAGS --bind-to none --tag-output sh -c "$wait_for$process" flaxmill "$@" &
trap 'kill -USR1 $!' TERM
eval "$wait_for"
wait_for $!
