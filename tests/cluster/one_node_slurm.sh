#!/usr/bin/env bash
# A Slurm of one node on this machine's loopback, for tests; it needs root and touches no other Slurm.
#   one_node_slurm.sh install           Debian's packages
#   one_node_slurm.sh start FOLDER      its files go there, which must be writable by root alone; then export SLURM_CONF=FOLDER/slurm.conf
#   one_node_slurm.sh stop FOLDER       end it and remove its files
set -euo pipefail

install() {
    command -v sbatch slurmctld slurmd munged >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    # No service is to be started by the installation.
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e $policy ]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    local code=0
    { apt-get -qq update && apt-get -qq install --yes --no-install-recommends slurm-wlm munge >/dev/null; } || code=$?
    [ -z "$ours" ] || rm -f $policy
    return $code
}

start() {
    local folder=$1 node cpus memory
    node=$(hostname -s)
    getent hosts "$node" >/dev/null || node=localhost
    cpus=$(nproc --all)
    cpus=$((cpus > 2 ? cpus : 2)) # two processes of a job must fit
    memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 - 256))
    mkdir -p "$folder"/{state,spool,log}
    command install --directory --owner=munge --group=munge --mode=0755 "$folder/munge"
    dd if=/dev/urandom bs=1 count=1024 status=none | runuser -u munge -- sh -c "umask 077; cat >'$folder/munge/key'"
    runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    local ports=$((20000 + RANDOM % 20000))
    cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=$ports
SlurmdPort=$((ports + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
KillWait=1
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N "$node"
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && return
        sleep 0.2
    done
    echo "Slurm does not come up; its logs:" >&2
    tail -n 20 "$folder"/log/* >&2
    return 1
}

stop() {
    local folder=$1 file
    [ -d "$folder" ] || return 0
    export SLURM_CONF=$folder/slurm.conf
    timeout 10 scancel --user=root 2>/dev/null || true
    for _ in $(seq 50); do
        [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break
        sleep 0.3
    done
    for file in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munge/pid; do
        [ -s "$file" ] && end "$(cat "$file")"
    done
    rm -rf "$folder"
}

end() {
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 50); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
}

"$@"
