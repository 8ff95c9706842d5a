# shellcheck shell=bash
# What entrypoint.sh starts, one function for each role. Nothing runs when this is sourced.

CLUSTER=/cluster
TEMPLATES=/usr/local/share/hpctrain-cluster
STATE=/run/hpctrain-cluster
SECRET=/run/database-secret/password
NODE_FILES=/var/lib/hpctrain/node
MOST_NODES=32
USERS=(alice bob oper)

say() { printf '%s %s: %s\n' "$(date -u +%FT%TZ)" "$ROLE" "$*"; }

as_user() { setpriv --reuid="$1" --regid="$1" --init-groups -- "${@:2}"; }

# wait_for SECONDS COMMAND...: until it succeeds; ends the container with a message if it never does.
wait_for() {
    local left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        ((left-- > 0)) || { say "gave up waiting for: $*"; exit 1; }
        sleep 1
    done
}

# make_secret FILE: random text, made by whoever comes first.
make_secret() {
    (
        flock 9
        [[ -s $1 ]] || { umask 077; head -c 96 /dev/urandom | base64 -w 0 | tr -d '/+=' >"$1.new"; mv "$1.new" "$1"; }
    ) 9>>"$(dirname -- "$1")/.lock"
}

# ---------------------------------------------------------------- what several roles share

start_munged() {
    make_secret "$CLUSTER/munge.key"
    chmod 400 "$CLUSTER/munge.key"
    install -d -o munge -g munge -m 700 /etc/munge /var/log/munge
    install -d -o munge -g munge -m 711 /var/lib/munge
    install -d -o munge -g munge -m 755 /run/munge
    install -o munge -g munge -m 400 "$CLUSTER/munge.key" /etc/munge/munge.key
    rm -f /run/munge/munged.pid
    as_user munge /usr/sbin/munged --force
    wait_for 20 munge -n
}

slurm_places() {
    install -d -o slurm -g slurm -m 755 /var/log/slurm /var/spool/slurmctld
    install -d -m 755 /var/spool/slurmd
}

# register NAME: tell the other machines our address and host key. There is no name server but Docker's, which knows
# containers, not nodes; and it forgets one that is stopped, where a cluster's /etc/hosts does not.
register() {
    mkdir -p "$CLUSTER/hosts.d" "$CLUSTER/ssh.d"
    ssh-keygen -A >/dev/null
    local address key
    address=${FIXED:-$(own_address)}
    key=$(cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub)
    echo "$1,$address $key" >"$CLUSTER/ssh.d/.$1"
    mv "$CLUSTER/ssh.d/.$1" "$CLUSTER/ssh.d/$1"
    echo "$address $1" >"$CLUSTER/hosts.d/.$1"
    mv "$CLUSTER/hosts.d/.$1" "$CLUSTER/hosts.d/$1"
    [[ -e $STATE/hosts ]] || grep -v " $(hostname)$" /etc/hosts >"$STATE/hosts"
}

# fixed_address NUMBER: give this node an address of its own, the NUMBERth from the end of the network. Docker gives a container
# that is started again another one, and slurmctld goes on sending batch jobs to the address that it knows. Docker itself hands
# out addresses from the beginning.
fixed_address() {
    local network
    network=$(ip -4 -o addr show dev eth0 scope global | awk '{print $4; exit}')
    FIXED=$(/usr/bin/python3 -c 'import ipaddress, sys
network = ipaddress.ip_interface(sys.argv[1]).network
print(network.broadcast_address - 1 - int(sys.argv[2]))' "$network" "$1")
    ip addr replace "$FIXED/${network#*/}" dev eth0
}

own_address() { ip -4 -o addr show scope global | awk '{sub("/.*", "", $4); print $4; exit}'; }

# know_others: /etc/hosts and the known host keys, from what the machines have registered.
know_others() {
    cat "$STATE/hosts" "$CLUSTER"/hosts.d/* >"$STATE/hosts.new" 2>/dev/null || return 0
    # In place: Docker has mounted the file.
    cmp -s "$STATE/hosts.new" /etc/hosts || cat "$STATE/hosts.new" >/etc/hosts
    cat "$CLUSTER"/ssh.d/* >/etc/ssh/ssh_known_hosts.new 2>/dev/null || return 0
    cmp -s /etc/ssh/ssh_known_hosts.new /etc/ssh/ssh_known_hosts || mv /etc/ssh/ssh_known_hosts.new /etc/ssh/ssh_known_hosts
}

# start_sshd USER...: these may come in, besides root; the login node's root has a key for all machines.
start_sshd() {
    local config=/etc/ssh/sshd_config.d/cluster.conf
    { cat "$TEMPLATES/sshd.conf"; echo "AllowUsers root $*"; } >"$config"
    install -d -m 700 /root/.ssh
    [[ ! -s $CLUSTER/root.pub ]] || install -m 600 "$CLUSTER/root.pub" /root/.ssh/authorized_keys
    mkdir -p /run/sshd
    /usr/sbin/sshd -f "$config"
}

# ---------------------------------------------------------------- database

role_mariadb() {
    make_secret "$SECRET"
    install -d -o mysql -g mysql -m 755 /run/mysqld /var/lib/mysql
    cp "$TEMPLATES/mariadb.cnf" /etc/mysql/mariadb.conf.d/90-cluster.cnf
    [[ -d /var/lib/mysql/mysql ]] || mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=socket >/dev/null
    local password
    password=$(<"$SECRET")
    install -d -o mysql -g mysql -m 700 "$STATE/sql"
    install -o mysql -g mysql -m 400 /dev/stdin "$STATE/sql/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'%' IDENTIFIED BY '$password';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'%';
SQL
    exec mariadbd --user=mysql --init-file="$STATE/sql/init.sql"
}

role_slurmdbd() {
    slurm_places
    start_munged
    # Docker's name server forgets a machine that is down, and slurmctld, which then tries the name again and again, answers nobody.
    register slurmdbd
    install -o slurm -g slurm -m 600 /dev/stdin /etc/slurm/slurmdbd.conf \
        < <(sed "s/@PASSWORD@/$(<"$SECRET")/" "$TEMPLATES/slurmdbd.conf.in")
    exec slurmdbd -D
}

# ---------------------------------------------------------------- controller

slurm_version() { slurmctld -V | sed -n 's/[^0-9]*\([0-9]*\)\.\([0-9]*\).*/\1\2/p'; }

# cgroup_version: the version of control groups in which this Slurm can hold jobs to their memory here; empty for none.
cgroup_version() {
    local slurm
    slurm=$(slurm_version)
    if [[ -d /sys/fs/cgroup/memory ]]; then
        # Slurm gave version 1 up in 25.11.
        ((slurm < 2405 || slurm > 2505)) || echo 1
    elif [[ -e /sys/fs/cgroup/cgroup.controllers ]] && grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
        ((slurm < 2405)) || echo 2
    fi
}

write_cgroup_conf() {
    case $(cgroup_version) in
        1) printf '%s\n' CgroupPlugin=cgroup/v1 ConstrainRAMSpace=yes ;;
        2) printf '%s\n' CgroupPlugin=cgroup/v2 IgnoreSystemd=yes EnableControllers=yes ConstrainRAMSpace=yes ;;
        *) if (($(slurm_version) < 2405)); then echo CgroupPlugin=cgroup/v1; else echo CgroupPlugin=disabled; fi ;;
    esac >/etc/slurm/cgroup.conf
}

write_slurm_conf() {
    local nodes=${NODES:-4} gpus=${GPUS:-8} future='' tasks=task/none
    ((nodes >= MOST_NODES)) || future="NodeName=c[$((nodes + 1))-$MOST_NODES] CPUs=64 RealMemory=256000 Gres=gpu:sim:$gpus State=FUTURE"
    [[ -z $(cgroup_version) ]] || tasks=task/cgroup
    [[ -e /etc/slurm/site.conf ]] || echo '# Settings of your own; they count more than those in slurm.conf.' >/etc/slurm/site.conf
    write_cgroup_conf
    echo "NodeName=c[1-$MOST_NODES] Name=gpu Type=sim File=/var/lib/hpctrain/gpus/gpu[0-$((gpus - 1))]" >/etc/slurm/gres.conf
    sed -e "s/@CLUSTER@/hpctrain/; s/@NODES@/$nodes/; s/@GPUS@/$gpus/; s|@FUTURE@|$future|" \
        -e "s|@PROCESSES@|ProctrackType=proctrack/linuxproc\\nTaskPlugin=$tasks|" \
        "$TEMPLATES/slurm.conf.in" >/etc/slurm/slurm.conf.new
    mv /etc/slurm/slurm.conf.new /etc/slurm/slurm.conf
}

make_homes() {
    local user home
    mkdir -p /shared/home
    for user in "${USERS[@]}"; do
        home=/shared/home/$user
        [[ ! -d $home/.ssh ]] || continue
        install -d -o "$user" -g "$user" -m 700 "$home" "$home/.ssh"
        as_user "$user" ssh-keygen -q -t ed25519 -N '' -C "$user" -f "$home/.ssh/id_ed25519"
        as_user "$user" cp "$home/.ssh/id_ed25519.pub" "$home/.ssh/authorized_keys"
    done
    install -d -m 1777 /shared/scratch
}

# Accounts, and two levels of service: jobs of 'high' send those of 'normal' back into the queue.
make_accounts() {
    wait_for 60 scontrol ping
    wait_for 60 sacctmgr -n -i show cluster hpctrain
    sacctmgr -i add qos high Priority=1000 Preempt=normal >/dev/null || true
    sacctmgr -i add account research Description=research Organization=lab >/dev/null || true
    sacctmgr -i add user alice,bob,oper Account=research >/dev/null || true
    sacctmgr -i modify user where name=alice,oper set QOS=normal,high DefaultQOS=normal >/dev/null || true
    sacctmgr -i modify user where name=bob set QOS=normal DefaultQOS=normal >/dev/null || true
    # AdminLevel=Operator would not do: it may change jobs and reservations, but no node.
    sacctmgr -i modify user where name=oper set AdminLevel=Admin >/dev/null || true
    touch "$STATE/accounts"
}

role_slurmctld() {
    slurm_places
    start_munged
    write_slurm_conf
    make_homes
    # Root of the login node makes the key; its place is there before any node looks for it.
    [[ -s $CLUSTER/root_key ]] || ssh-keygen -q -t ed25519 -N '' -C root@login -f "$CLUSTER/root_key"
    cp "$CLUSTER/root_key.pub" "$CLUSTER/root.pub"
    register slurmctld
    know_others
    start_sshd
    make_accounts &
    say "$(slurmctld -V)"
    # It may be killed and started again without the container, as on a real machine: pkill slurmctld; slurmctld
    slurmctld
    supervise
}

# ---------------------------------------------------------------- login node and compute nodes

role_login() {
    start_munged
    register login
    know_others
    start_sshd "${USERS[@]}"
    install -m 600 "$CLUSTER/root_key" /root/.ssh/id_ed25519
    supervise
}

# own_number: Docker's name server knows this container as PROJECT-c-3.NETWORK (Compose v2), PROJECT_c_3.NETWORK (1.29).
own_number() { getent -s dns hosts "$(own_address)" | sed -nE 's/.*[-_]c[-_]([0-9]+)(\..*)?$/\1/p' | head -n 1; }

role_node() {
    local number
    wait_for 20 own_number
    number=$(own_number)
    [[ -n $number ]] || { say "no number in this container's name: start it with Compose"; exit 1; }
    NODE=c$number
    echo "$NODE" >"$STATE/node"
    fixed_address "$number" || say 'no fixed address: that needs NET_ADMIN'
    hostname "$NODE" || say "the host name stays $(hostname): that needs SYS_ADMIN"
    slurm_places
    start_munged
    register "$NODE"
    know_others
    start_sshd oper
    wait_for 60 test -s /etc/slurm/slurm.conf
    make_gpus
    own_cgroups || say 'no control groups of our own: Slurm cannot hold jobs to their memory'
    if ((number > ${NODES:-4})); then scontrol update "NodeName=$NODE" State=IDLE || true; fi
    /opt/hpctrain/bin/python -I -m hpctrain.devcluster.simulate create "$NODE_FILES" "$NODE" --gpus "${GPUS:-8}" \
        --library /opt/hpctrain/libnvidia-ml.so.1
    start_slurmd
    supervise
}

make_gpus() {
    local number
    mkdir -p /var/lib/hpctrain/gpus
    for ((number = 0; number < ${GPUS:-8}; number++)); do ln -sfn /dev/null "/var/lib/hpctrain/gpus/gpu$number"; done
}

# own_cgroups: the part of the tree of control groups that Docker has made for this container, and shows it read-only.
own_cgroups() {
    case $(cgroup_version) in
        1) mount -o remount,rw,bind /sys/fs/cgroup/memory ;;
        2)
            mount -o remount,rw,bind /sys/fs/cgroup
            mkdir -p /sys/fs/cgroup/machine
            # Limits may be set below a group only if no process is in the group itself.
            while read -r pid; do
                echo "$pid" >/sys/fs/cgroup/machine/cgroup.procs || true
            done </sys/fs/cgroup/cgroup.procs 2>/dev/null
            echo '+memory' >/sys/fs/cgroup/cgroup.subtree_control
            ;;
    esac
}

start_slurmd() { slurmd -N "$NODE" "$@" || say "slurmd does not start"; }

# after_reboot: what reboot.sh has asked for. All of the node's processes are gone, its memory too, its disk is not.
after_reboot() {
    rm -f "$STATE/reboot"
    find /dev/shm /tmp -mindepth 1 -delete 2>/dev/null || true
    /opt/hpctrain/bin/python -I -m hpctrain.devcluster.simulate reboot "$NODE_FILES" "$NODE"
    start_slurmd -b
}

# supervise: for ever. A daemon that somebody ended stays down, as on a machine whose administrator did that.
supervise() {
    touch "$STATE/ready"
    while :; do
        know_others
        if [[ -n ${NODE:-} ]]; then
            [[ ! -e $STATE/reboot ]] || after_reboot
            simulated_uptime
        fi
        sleep 1 &
        wait $! || true
    done
}

# The simulated kernel has no clock of its own.
simulated_uptime() {
    local booted
    read -r booted <"$NODE_FILES/booted" || return 0
    echo "$(($(date +%s) - booted)).00 0.00" >"$NODE_FILES/proc/uptime.new"
    mv "$NODE_FILES/proc/uptime.new" "$NODE_FILES/proc/uptime"
}
