#!/usr/bin/env bash
# A real Slurm cluster of two nodes on this machine, to try cmd_backend=slurm and to test it.
# usage: tools/slurm_testbed.sh install|start|stop|status [--dir tools/.slurm]
# start prints the line that makes Slurm's commands use it: eval "$(tools/slurm_testbed.sh start)"
set -euo pipefail

case "${1:-}" in
    install | start | stop | status) action=$1 && shift ;;
    *) action= ;;
esac
dir=       # configuration, state and logs; default: tools/.slurm
cpus=      # CPUs of each node; default: the cores of this machine, two at least, so that jobs of two can be tried
. "$(dirname "$0")/../utils/parse_options.sh"

nodes=(mt1 mt2)
dir=${dir:-$(cd "$(dirname "$0")" && pwd)/.slurm}
dir=$(realpath -m "${dir}")
cores=$(env -u OMP_NUM_THREADS nproc)
cpus=${cpus:-$((cores < 2 ? 2 : cores))}
# Debian puts the daemons where only root's PATH looks.
export PATH="${PATH}:/usr/sbin:/sbin" SLURM_CONF="${dir}/slurm.conf"

fail() { echo "tools/slurm_testbed.sh: $*" >&2; exit 1; }

install_packages() {
    command -v apt-get >/dev/null || fail "no apt-get here; install slurmctld, slurmd, Slurm's clients and munge"
    [ "$(id -u)" -eq 0 ] || fail "only root can install; run: sudo tools/slurm_testbed.sh install"
    apt-get update -q
    # The packages' own services are not wanted: this script starts the daemons, with its own configuration.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.testbed
    chmod +x /usr/sbin/policy-rc.d.testbed
    [ -e /usr/sbin/policy-rc.d ] || ln -s policy-rc.d.testbed /usr/sbin/policy-rc.d
    local code=0
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        slurmctld slurmd slurm-client munge || code=$?
    if [ "$(readlink /usr/sbin/policy-rc.d)" = policy-rc.d.testbed ]; then rm /usr/sbin/policy-rc.d; fi
    rm /usr/sbin/policy-rc.d.testbed
    [ "${code}" -eq 0 ] || fail "apt-get could not install the packages (see above)"
}

free_ports() { # three of them
    python3 -S -c '
import socket
held = [socket.socket() for _ in range(3)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))'
}

write_configuration() {
    local ports user memory each
    read -r -a ports <<<"$(free_ports)"
    user=$(id -un)
    memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    each="NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=${cpus} RealMemory=${memory} State=UNKNOWN"
    cat >"${dir}/slurm.conf.tmp" <<EOF
ClusterName=testbed
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=${user}
SlurmdUser=${user}
AuthType=auth/munge
AuthInfo=socket=${dir}/munge/socket
CredType=cred/munge
StateSaveLocation=${dir}/state
SlurmdSpoolDir=${dir}/spool.%n
SlurmctldPidFile=${dir}/slurmctld.pid
SlurmdPidFile=${dir}/slurmd.%n.pid
SlurmctldLogFile=${dir}/slurmctld.log
SlurmdLogFile=${dir}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
JobRequeue=1
NodeName=${nodes[0]} Port=${ports[1]} ${each}
NodeName=${nodes[1]} Port=${ports[2]} ${each}
PartitionName=main Nodes=$(IFS=,; echo "${nodes[*]}") Default=YES MaxTime=INFINITE State=UP
EOF
    mv "${dir}/slurm.conf.tmp" "${dir}/slurm.conf"
}

alive() { # PID-FILE: a process that has ended but was not reaped (state Z) is not
    [ -s "$1" ] && [[ $(sed 's/.*) //' "/proc/$(<"$1")/stat" 2>/dev/null) =~ ^[^Z] ]]
}

all_idle() {
    [ "$(sinfo --noheader --Node --format='%t' 2>/dev/null | grep -cE '^(idle|mix|alloc)$')" -eq "${#nodes[@]}" ]
}

show_logs() {
    tail -n 5 "${dir}"/*.log "${dir}/munge/"*.log >&2 || true
}

start() {
    local name
    if alive "${dir}/slurmctld.pid" && all_idle; then
        echo "export SLURM_CONF=${SLURM_CONF}"
        return
    fi
    for name in munged slurmctld slurmd sbatch; do
        command -v "${name}" >/dev/null || fail "there is no ${name}; install it: tools/slurm_testbed.sh install"
    done
    # What a killed machine or a half start has left behind; jobs of then are gone.
    stop
    [ ${#dir} -le 80 ] || fail "${dir}: too long a path for sockets; give --dir, e.g. --dir /tmp/slurm"
    rm -rf "${dir}/state" "${dir}"/spool.* "${dir}"/*.log
    mkdir -p "${dir}/munge" "${dir}/state"
    chmod 711 "${dir}/munge"
    if [ ! -s "${dir}/munge/key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"${dir}/munge/key")
    fi
    munged --force --key-file="${dir}/munge/key" --socket="${dir}/munge/socket" --pid-file="${dir}/munge/pid" \
        --log-file="${dir}/munge/munged.log" --seed-file="${dir}/munge/seed" 2>"${dir}/munge/start.log" ||
        { show_logs; fail "munged did not start"; }
    write_configuration
    slurmctld -c >/dev/null || { show_logs; fail "slurmctld did not start"; }
    for name in "${nodes[@]}"; do
        mkdir -p "${dir}/spool.${name}"
        slurmd -N "${name}" >/dev/null || { show_logs; fail "slurmd did not start on ${name}"; }
    done
    local i
    for ((i = 0; i < 150; i++)); do
        if all_idle; then
            echo "export SLURM_CONF=${SLURM_CONF}"
            return
        fi
        sleep 0.2
    done
    show_logs
    stop
    fail "the nodes did not come up in 30 s"
}

stop() {
    local file signal i
    if alive "${dir}/slurmctld.pid"; then scancel --quiet --user="$(id -un)" 2>/dev/null || true; fi
    for file in "${dir}"/slurmctld.pid "${dir}"/slurmd.*.pid "${dir}/munge/pid"; do
        for signal in TERM KILL; do
            alive "${file}" || break
            kill -"${signal}" "$(<"${file}")" 2>/dev/null || true
            for ((i = 0; i < 100; i++)); do
                alive "${file}" || break
                sleep 0.1
            done
        done
    done
    rm -f "${dir}"/slurmctld.pid "${dir}"/slurmd.*.pid "${dir}/munge/pid" "${dir}/munge/socket"*
}

status() {
    if ! alive "${dir}/slurmctld.pid"; then
        echo "not running; start it: tools/slurm_testbed.sh start"
        exit 1
    fi
    sinfo --Node --long
    squeue
    echo "export SLURM_CONF=${SLURM_CONF}"
}

case "${action}" in
    install) install_packages ;;
    start) start ;;
    stop) stop ;;
    status) status ;;
    *) fail "say what to do: install, start, stop or status; see --help" ;;
esac
