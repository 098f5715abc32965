#!/bin/sh
# A Slurm of one node on loopback, without systemd, for tests/launchers: as root in a container or a throw-away machine,
# after `apt-get install slurm-wlm munge`. It leaves a Slurm that is configured already alone. Stop it with
# `kill $(cat /run/slurmd.pid /run/slurmctld.pid)`.
set -eu

conf=/etc/slurm/slurm.conf
mark="# made by tests/launchers/start_slurm.sh"
node=$(hostname -s)
if [ -f "$conf" ] && ! grep -qxF "$mark" "$conf"; then
  echo "start_slurm.sh: $conf is not this script's; nothing was changed" >&2
  exit 2
fi

cat >"$conf" <<CONF
$mark
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF

mkdir -p /run/munge /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
[ -f /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
chown -R munge: /run/munge /etc/munge
chmod 755 /run/munge
chmod 400 /etc/munge/munge.key

running() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
running /run/munge/munged.pid || setpriv --reuid=munge --regid=munge --clear-groups munged
running /run/slurmctld.pid || slurmctld
running /run/slurmd.pid || slurmd

tries=0
until srun --immediate=5 true 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 20 ] || { echo "start_slurm.sh: no job ran; see /var/log/slurm/" >&2; exit 1; }
  sleep 1
done
sinfo
