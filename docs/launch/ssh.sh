#!/bin/sh
# Trains on hosts that ssh reaches:  HOSTS="node1 node2" sh ssh.sh CONFIG --run-dir /shared/runs/NAME ...
#
# One process runs on each host, process 0 on the first. SIGTERM or Ctrl-C saves and stops the run: the script ends with
# 75.
#   HOSTS     names that ssh knows; all hosts must reach the first by the name that stands here
#   PORT      where process 0 listens (8476)
#   SSH       how to connect (ssh -o BatchMode=yes)
#   FLAXMILL  the command on the hosts (flaxmill)

: "${HOSTS:?set it, as in: HOSTS='node1 node2' sh ssh.sh CONFIG --run-dir DIR}"
: "${PORT:=8476}" "${SSH:=ssh -o BatchMode=yes}" "${FLAXMILL:=flaxmill}"

# What a host's shell runs: the training, and beside it a shell that sends it SIGTERM once its input ends. The input
# ends when this script says so, when this script dies, and when the connection is lost: nothing is left running.
# shellcheck disable=SC2016
process='
exec 3<&0
"$@" </dev/null 3<&- &
train=$!
(read -r _ <&3; kill -TERM $train) >/dev/null 2>&1 &
watch=$!
wait $train; code=$?
kill $watch 2>/dev/null
exit $code'

# Words for another shell, each in single quotes.
quoted() {
    for word in "$@"; do printf "'%s' " "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"; done
}

# The variables that the processes read. A secret must not stand on a command line: set FLAXMILL_JOB_TOKEN on the hosts.
settings() {
    for name in $(env | grep -E '^(FLAXMILL|JAX|XLA|NCCL|TPU|LIBTPU)_[A-Za-z0-9_]*=' | cut -d= -f1); do
        [ "$name" = FLAXMILL_JOB_TOKEN ] || eval "quoted \"$name=\$$name\""
    done
}

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/input"
exec 3<>"$scratch/input"
exec 4<"$scratch/input" # what is read here ends when 3 is closed
trap 'exec 3>&-' TERM INT

number=$(echo "$HOSTS" | wc -w)
first=${HOSTS%% *}
index=0
started=
for host in $HOSTS; do
    train=$(quoted env)$(settings)$(quoted "$FLAXMILL" train "$@" \
        --coordinator "${first#*@}:$PORT" --num-processes "$((number))" --process-index "$index")
    (
        exec 3>&-
        $SSH "$host" "cd $(quoted "$PWD") && exec sh -c $(quoted "$process") sh $train" <&4
        code=$?
        echo "$code" >"$scratch/code.$index"
        [ "$code" -eq 0 ] || echo "process $index on $host ended with $code" >&2
        case $code in 0 | 75) ;; *) kill -TERM $$ ;; esac # the others need not wait for it
    ) &
    started="$started $!"
    index=$((index + 1))
done

# A signal interrupts `wait`, which must then go on.
for shell in $started; do
    while kill -0 "$shell" 2>/dev/null; do wait "$shell"; done
done

# 0 or 75 only if no process says otherwise; else the highest of the other codes.
worst=0
for file in "$scratch"/code.*; do
    read -r code <"$file"
    case $code in
        0) ;;
        75) [ "$worst" -ne 0 ] || worst=75 ;;
        *) if [ "$worst" -eq 75 ] || [ "$code" -gt "$worst" ]; then worst=$code; fi ;;
    esac
done
exit "$worst"
