#!/bin/bash
# A real, private Docker engine for tests (root; Debian 12 or later; no network needed after install).
#
#   docker-engine.sh install      Debian packages (idempotent; starts no service)
#   docker-engine.sh start        start an engine and load the test images; prints its DOCKER_HOST
#   docker-engine.sh daemon       start dockerd alone again, after it was stopped or killed by a test
#   docker-engine.sh status       exit 0 when it answers
#   docker-engine.sh run CMD...   start, run CMD with DOCKER_HOST set, stop; CMD's exit code
#   docker-engine.sh stop         remove everything: containers, data, mounts, network namespace, cgroups
#
# Several engines live side by side: each has its own directory DE_DIR (socket, data root, pid files), its
# own cgroup parent and its own network namespace, so docker0 and iptables never touch the host. The mount
# namespace is the host's: scratch directories are bound from there into containers.
#   DE_DIR    everything it writes, docker.sock included; default: a new directory for `run`, else required
#   DE_GROUP  the group that may use the socket; default daemon
#   DE_LOG    where dockerd's log goes; default DE_DIR/dockerd.log
set -u

BUSYBOX=condor-starter-test/busybox:1
ENTRYPOINT=condor-starter-test/entrypoint:1
NO_COMMAND=condor-starter-test/nocommand:1

die() { echo "docker-engine: $*" >&2; exit 1; }

need_dir() {
    [ -n "${DE_DIR:-}" ] || die "set DE_DIR to a directory of its own"
    case "$DE_DIR" in /tmp/?*|/var/tmp/?*) ;; *) die "DE_DIR must be beneath /tmp or /var/tmp, not $DE_DIR" ;; esac
    SOCK=$DE_DIR/docker.sock
    DE_CGROUP=test-docker-$(printf %s "$DE_DIR" | cksum | cut -d' ' -f1)
    export DOCKER_HOST=unix://$SOCK
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CONFIG
}

# Debian's own client, not whatever else is called docker on this machine.
client() { HOME=$DE_DIR /usr/bin/docker "$@"; }
alive() { [ -s "$DE_DIR/dockerd.pid" ] && kill -0 "$(cat "$DE_DIR/dockerd.pid")" 2>/dev/null; }
answers() { curl -s -m 5 --unix-socket "$SOCK" http://engine/_ping 2>/dev/null | grep -q OK; }

install_packages() {
    local want=() p
    for p in docker.io iptables busybox-static tini curl iproute2; do
        dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok installed' || want+=("$p")
    done
    [ ${#want[@]} = 0 ] && return 0
    # No service may start: neither by policy-rc.d nor, where somebody else removes that file, by runlevel.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; }
    { apt-get update -qq; RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        -o DPkg::Lock::Timeout=300 --no-install-recommends "${want[@]}"; } >&2
    local rc=$?
    [ -n "$made" ] && rm -f $policy
    return $rc
}

write_config() {
    cat >"$DE_DIR/daemon.json" <<J
{ "hosts": ["$DOCKER_HOST"], "group": "${DE_GROUP:-daemon}", "data-root": "$DE_DIR/data", "exec-root": "$DE_DIR/exec",
  "pidfile": "$DE_DIR/dockerd.pid", "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "cgroup-parent": "/$DE_CGROUP", "bip": "10.213.7.1/24", "dns": ["127.0.0.1"], "shutdown-timeout": 5 }
J
}

daemon() {
    answers && return 0
    rm -f "$DE_DIR/dockerd.pid" "$DE_DIR/exec/containerd/containerd.pid"
    setsid unshare --net sh -c 'ip link set lo up; exec dockerd --config-file "$0"' \
        "$DE_DIR/daemon.json" >>"${DE_LOG:-$DE_DIR/dockerd.log}" 2>&1 </dev/null &
    local i; for i in $(seq 300); do answers && return 0; sleep 0.1; done
    tail -5 "${DE_LOG:-$DE_DIR/dockerd.log}" >&2
    die "dockerd does not answer on $SOCK"
}

# A busybox tree as an image, one with an entrypoint, and one with no default command at all.
images() {
    local root=$DE_DIR/tree applet
    mkdir -p "$root"/{bin,etc,tmp,root,proc,sys,dev,suid}
    chmod 1777 "$root/tmp"
    cp /bin/busybox "$root/bin/"
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -sf busybox "$root/bin/$applet"; done
    cp /bin/busybox "$root/suid/su"; chmod 4755 "$root/suid/su"  # would make root of anybody, if it could
    printf 'root::0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    local env=(-c 'ENV PATH=/bin' -c 'ENV FROM_IMAGE=yes')
    tar -C "$root" -c . | client import "${env[@]}" -c 'CMD ["echo","default","command"]' - $BUSYBOX >/dev/null &&
    tar -C "$root" -c . | client import "${env[@]}" -c 'ENTRYPOINT ["/bin/echo","entrypoint"]' - $ENTRYPOINT >/dev/null &&
    tar -C "$root" -c . | client import "${env[@]}" - $NO_COMMAND >/dev/null || return 1
    rm -r "$root"
}

start() {
    command -v dockerd >/dev/null && [ -x /usr/bin/docker ] && [ -x /bin/busybox ] || install_packages || die "install failed"
    mkdir -p "$DE_DIR" || die "cannot make $DE_DIR"
    write_config
    daemon
    client image inspect $BUSYBOX $ENTRYPOINT $NO_COMMAND >/dev/null 2>&1 || images || die "cannot make the test images"
    echo "DOCKER_HOST=$DOCKER_HOST"
}

wait_gone() { local i; for i in $(seq "$2"); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done; return 1; }

stop() {
    local pid c d
    if answers; then
        c=$(client ps -aq); [ -n "$c" ] && client rm -f $c >/dev/null 2>&1
    fi
    if alive; then
        pid=$(cat "$DE_DIR/dockerd.pid"); kill "$pid"; wait_gone "$pid" 200 || kill -9 "$pid"
    fi
    # a killed dockerd leaves its containerd and shims behind: all of them name DE_DIR in their arguments
    for d in /proc/[0-9]*; do
        [ "${d#/proc/}" != $$ ] && case "$(cat "$d/cmdline" 2>/dev/null | tr "\0" " ")" in
            containerd*"$DE_DIR/exec/"*|*containerd-shim*"$DE_DIR/exec/"*|docker-proxy*"$DE_DIR/"*) kill -9 "${d#/proc/}" 2>/dev/null ;;
        esac
    done
    for c in /sys/fs/cgroup /sys/fs/cgroup/*; do  # the root of v2, or each hierarchy of v1
        [ -d "$c/$DE_CGROUP" ] || continue
        find "$c/$DE_CGROUP" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r pid; do kill -9 "$pid" 2>/dev/null; done
        for d in 1 2 3 4 5 6 7 8 9 10; do
            find "$c/$DE_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null
            [ -d "$c/$DE_CGROUP" ] || break
            sleep 0.2
        done
    done
    awk -v d="$DE_DIR/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r d; do umount "$d" || umount -l "$d"; done
    rm -rf --one-file-system "$DE_DIR"
}

command=${1:-}; [ $# -gt 0 ] && shift
case "$command" in
    install) install_packages ;;
    start) need_dir; start ;;
    daemon) need_dir; daemon ;;
    stop) need_dir; stop ;;
    status) need_dir; answers ;;
    run)
        DE_DIR=${DE_DIR:-$(mktemp -d /tmp/docker-engine.XXXXXX)}; need_dir
        trap stop EXIT
        start >/dev/null
        "$@" ;;
    *) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2 ;;
esac
