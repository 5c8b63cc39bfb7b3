#!/bin/bash
# A real, unmodified HTCondor pool on this machine, with a condor_starter of your choice in it.
#
#   pool.sh install            make the tree: debootstrap, HTCondor, Python (once; then a few milliseconds)
#   pool.sh wheels             our locked dependencies into the tree's Python (once for each lock; no network inside)
#   pool.sh ours               our package into the tree's Python (once for each state of the sources)
#   pool.sh start              all of these, then condor_master as root in a fresh copy of the tree
#   pool.sh stop               end the pool and remove everything that it left: processes, mounts, cgroups, files
#   pool.sh in  CMD ARGS..     run CMD as root inside the pool
#   pool.sh as  USER CMD ..    run CMD as USER (alice, bob) inside the pool, in the user's home
#   pool.sh solo CMD ARGS..    run CMD as root in a fresh copy of the tree, without any daemon; the copy is thrown away
#   pool.sh root               print the host's path to the pool's / (for reading and writing files from outside)
#   pool.sh status             say what there is
#   pool.sh clean              remove the cached trees
#
# How it is boxed. The tree in the cache is never written to after its installation: `start` lays an overlay on it
# and runs the pool in mount, pid, network, uts and ipc namespaces of its own. So every start is a fresh machine, two
# pools never meet (ports and abstract sockets are each one's own), and when the pool's pid 1 dies everything goes.
# Logs, homes, spool and scratch are real directories under $TOP: the sandbox is not on an overlay, and the logs can be
# read from outside until `stop`.
#
# Environment:
#   CONDOR_STARTER_CACHE=/var/cache/condor-starter   where trees and wheels are kept
#   SUITE=trixie             the Debian release: trixie has HTCondor 23.9.6
#   TOP=/var/tmp/condor-starter-pool   the running pool's own directory; made by start, removed by stop
#   POOL_STARTER=daemon      daemon | direct | genuine: which starter the startd runs. `daemon` is our thin client, with
#                            condor_starterd and condor_starter_procd running beside the pool; `direct` our
#                            condor_starter doing all the work in its own process; `genuine` HTCondor's own
#   CGROUPS=host             host | v1: how the pool sees /sys/fs/cgroup. The genuine starter wants a directory
#                            "cpu,cpuacct" there; v1 shows it one, made of bind mounts
#   BASE_GROUP=              the cgroup under which everything of the pool lies; default: made of TOP
#   PORT=9618                the pool's one TCP port (in its own network namespace, so it need not be unique)
#   POOL_CONFIG=             more lines for the pool's configuration
#   POOL_OWNER=              a pid: the pool ends when that process does, however it ends
#   POOL_MIRROR=             Debian mirror; default: the one that this machine's apt uses
#   PYTHON=                  the host's Python with pip that makes the wheels; default: the project's .venv, else python3
# Needs root. What is missing of debootstrap is installed with apt-get.
set -euo pipefail
SUITE=${SUITE:-trixie} TOP=${TOP:-/var/tmp/condor-starter-pool} PORT=${PORT:-9618}
CGROUPS=${CGROUPS:-host} POOL_STARTER=${POOL_STARTER:-daemon}
CACHE=${CONDOR_STARTER_CACHE:-/var/cache/condor-starter}/pool
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TREE=$CACHE/$SUITE WHEELS=$CACHE/wheels ROOT=$TOP/root
OURS='' SELF=$SOURCE/tests/env/pool.sh LOCK=$SOURCE/requirements.lock
# All cgroups of this pool lie under one base group of its own, in every hierarchy.
BASE_GROUP=${BASE_GROUP:-condor-starter-pool-$(printf %s "$TOP" | cksum | cut -d' ' -f1)}
PACKAGES="condor minicondor python3 python3-venv procps iproute2"
PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

say() { printf 'pool: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
now() { date +%s%N; }
# step "what" CMD..: say what is being done, and how long it took.
step() {
  local what=$1 begun; shift; begun=$(now); say "$what ..."
  "$@" || die "$what: failed after $(took "$begun")"
  say "$what: $(took "$begun")"
}
took() { local ms=$(( ($(now) - $1) / 1000000 )); printf '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10)); }
# quietly LOG CMD..: output to a file, shown only on failure.
quietly() { local log=$1; shift; "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; return 1; }; }

# ---------------------------------------------------------------- the tree

mirror() {
  [ -z "${POOL_MIRROR:-}" ] || { echo "$POOL_MIRROR"; return; }
  awk '$1 == "URIs:" { print $2; exit } $1 == "deb" { print $2; exit }' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true
}

# A throw-away mount namespace for package work, so that nothing is ever mounted on the host.
in_tree() {
  local tree=$1; shift
  unshare -m -p -f --kill-child --propagation private sh -c '
    tree=$1; shift
    mount -t proc proc "$tree/proc" && mount --rbind /sys "$tree/sys" && mount --rbind /dev "$tree/dev" || exit
    exec chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
      DEBIAN_FRONTEND=noninteractive "$@"' sh "$tree" "$@"
}

install() {
  [ "$(id -u)" = 0 ] || die "needs root: a pool is namespaces, mounts and users"
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"; flock 9   # two installations at the same time: the second finds the tree made
  [ -e "$TREE/.complete" ] && { exec 9>&-; return; }
  local new=$TREE.new begun; begun=$(now)
  rm -rf --one-file-system "$new" "$TREE"
  command -v debootstrap >/dev/null || step "debootstrap from apt" quietly "$CACHE/apt.log" \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends debootstrap
  step "Debian $SUITE by debootstrap" quietly "$CACHE/$SUITE.debootstrap.log" \
    unshare -m --propagation private debootstrap --variant=minbase "$SUITE" "$new" $(mirror)
  prepare_apt "$new"
  step "apt-get update" quietly "$CACHE/$SUITE.update.log" in_tree "$new" apt-get update
  step "packages: $PACKAGES" quietly "$CACHE/$SUITE.packages.log" \
    in_tree "$new" apt-get install -y --no-install-recommends $PACKAGES
  finish_tree "$new"
  mv "$new" "$TREE"
  say "tree $TREE: $(du -sh "$TREE" | cut -f1), $(in_tree "$TREE" condor_version | head -1), installed in $(took "$begun")"
  exec 9>&-
}

prepare_apt() {
  printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"   # packages start no daemon in the tree
  chmod 755 "$1/usr/sbin/policy-rc.d"
  # A mirror may be a snapshot, whose Release files are past their Valid-Until date.
  echo 'Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false";' >"$1/etc/apt/apt.conf.d/99pool"
  # No translations or manual pages: half of the time and a fifth of the size.
  echo 'Acquire::Languages "none";' >>"$1/etc/apt/apt.conf.d/99pool"
  printf 'path-exclude=/usr/share/%s/*\n' doc man locale >"$1/etc/dpkg/dpkg.cfg.d/pool"
  rm -f "$1/etc/resolv.conf"; cp /etc/resolv.conf "$1/etc/resolv.conf"
}

finish_tree() {
  local u
  for u in alice:2001 bob:2002; do
    in_tree "$1" useradd --no-create-home --uid "${u#*:}" --shell /bin/bash "${u%:*}"
  done
  printf '127.0.0.1\tlocalhost pool.test pool\n' >"$1/etc/hosts"
  in_tree "$1" apt-get clean
  rm -rf "$1"/var/lib/apt/lists/* "$1"/var/log/condor/*
  touch "$1/.complete"
}

# ---------------------------------------------------------------- our package and its wheels

# What is put on the tree goes into layers beside it, each kept by the digest of what it is made of; a pool's root is
# an overlay of them, so that an installation never changes anything under a running pool.
deps_layer() { echo "$CACHE/$SUITE-deps-$(deps_digest)"; }
ours_layer() { echo "$CACHE/$SUITE-ours-$(deps_digest)-${OURS:=$(ours_digest)}"; }
deps_digest() { sha256sum <"$LOCK" | cut -c1-12; }
ours_digest() {
  (cd "$SOURCE" && find src pyproject.toml etc README.md LICENSE -type f ! -name '*.pyc' -print0 2>/dev/null |
    sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
}
lower_dirs() { [ "$POOL_STARTER" = genuine ] || printf '%s:%s:' "$(ours_layer)" "$(deps_layer)"; echo "$TREE"; }

# Shell text: an overlay of $2 on $1/root, what is changed in it in $1/upper. A file system that cannot carry an
# overlay's changes (another overlay, as in a container) leaves them in memory, at $1/memory/upper.
overlay() {
  cat <<SH
mount -t overlay overlay -o lowerdir=$2,upperdir=$1/upper,workdir=$1/work $1/root 2>/dev/null || {
  mkdir -p $1/memory && mount -t tmpfs tmpfs $1/memory && cp -a $1/upper $1/memory && mkdir $1/memory/work &&
    mount -t overlay overlay -o lowerdir=$2,upperdir=$1/memory/upper,workdir=$1/memory/work $1/root; }
SH
}

# layer DIR LOWER SHARE CMD..: run CMD in LOWER with the host's directory SHARE on /mnt; DIR becomes what it changed.
layer() {
  local dir=$1 lower=$2 share=$3 new=$1.new; shift 3
  rm -rf --one-file-system "$new" "$dir"; mkdir -p "$new"/{upper,work,root} || return
  unshare -m -p -f --kill-child --propagation private sh -ec "$(overlay "$new" "$lower")"'
    new=$1 share=$2; shift 2
    mount -t proc proc "$new/root/proc"; mount --rbind /dev "$new/root/dev"; mount --bind "$share" "$new/root/mnt"
    chroot "$new/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root "$@"
    [ ! -d "$new/memory/upper" ] || { rm -rf "$new/upper"; cp -a "$new/memory/upper" "$new/upper"; }
  ' sh "$new" "$share" "$@" || return
  mv "$new/upper" "$dir" && rm -rf --one-file-system "$new"
}

python() {
  local p=${PYTHON:-$SOURCE/.venv/bin/python}
  [ -x "$p" ] || p=python3
  "$p" "$@"
}

# Dependencies, as wheels for the tree's Python, into a venv for the tree: no network is used inside. The lock was made
# for the oldest Python that we support; a later one needs nothing more.
wheels() {
  install
  local dir; dir=$(deps_layer)
  [ ! -d "$dir" ] || { touch "$dir"; return; }
  exec 9>"$CACHE/lock"; flock 9
  if [ ! -d "$dir" ]; then
    mkdir -p "$WHEELS"
    step "wheels for the tree's Python" quietly "$CACHE/wheels.log" download_wheels
    step "venv /opt/condor_starter with our dependencies" quietly "$CACHE/wheels.log" \
      layer "$dir" "$TREE" "$WHEELS" sh -c 'python3 -m venv /opt/condor_starter &&
        /opt/condor_starter/bin/pip install --quiet --no-index --find-links /mnt --require-hashes -r /mnt/wanted.txt'
  fi
  exec 9>&-
}

download_wheels() {
  local version glibc platforms=() v
  version=$(in_tree "$TREE" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || return
  glibc=$(in_tree "$TREE" python3 -c 'import platform; print(platform.libc_ver()[1].split(".")[1])') || return
  for ((v = glibc; v >= 17; v--)); do platforms+=(--platform "manylinux_2_${v}_$(uname -m)"); done
  rm -f "$WHEELS"/*; cp "$LOCK" "$WHEELS/wanted.txt" || return
  python -m pip download --quiet --dest "$WHEELS" --only-binary=:all: --implementation cp --python-version "$version" \
    "${platforms[@]}" --platform "linux_$(uname -m)" --require-hashes --no-deps -r "$WHEELS/wanted.txt"
}

# Our package, from its wheel.
ours() {
  wheels
  OURS=$(ours_digest)   # once: somebody may be working on the sources
  local dir; dir=$(ours_layer)
  [ ! -d "$dir" ] || { touch "$dir"; return; }
  exec 9>"$CACHE/lock"; flock 9
  if [ ! -d "$dir" ]; then
    # Layers of other sources that nobody has used for a day.
    find "$CACHE" -mindepth 1 -maxdepth 1 -name "$SUITE-*-*" -type d -mmin +1440 -exec rm -rf --one-file-system {} +
    step "our wheel" quietly "$CACHE/ours.log" build_wheel "$CACHE/ours"
    step "our package into the venv" quietly "$CACHE/ours.log" layer "$dir" "$(deps_layer):$TREE" "$CACHE/ours" \
      sh -c '/opt/condor_starter/bin/pip install --quiet --no-index --no-deps /mnt/*.whl'
    rm -rf "$CACHE/ours"
  fi
  exec 9>&-
}
# With the build backend that is installed if there is one, so that no network is needed.
build_wheel() {
  local isolation=; ! python -c 'import hatchling' 2>/dev/null || isolation=--no-build-isolation
  rm -rf "$1"; mkdir "$1" || return
  python -m pip wheel --quiet --no-deps $isolation --wheel-dir "$1" "$SOURCE"
}

# ---------------------------------------------------------------- the pool's machine

# The genuine starter takes a v1 hierarchy only by the name that a co-mounted cpu,cpuacct has.
v1_view() {
  cat <<SH
mount -t tmpfs -o mode=755 tmpfs $ROOT/sys/fs/cgroup
for c in memory cpu cpuacct freezer cpuset blkio pids devices cpu,cpuacct; do
  from=/sys/fs/cgroup/\$c; [ \$c != cpu,cpuacct ] || [ -d \$from ] || from=/sys/fs/cgroup/cpu
  [ ! -d \$from ] || { mkdir $ROOT/sys/fs/cgroup/\$c; mount --bind \$from $ROOT/sys/fs/cgroup/\$c; }
done
SH
}

# Shell text for pid 1 of fresh namespaces: makes the overlaid tree its root.
# pivot_root, not chroot: the genuine starter makes "/" a private mount before it execs a job, and mount(2) answers
# EINVAL where "/" is no mount point (every job is then held).
enter() {
  cat <<SH
set -e
$(overlay "$TOP" "$(lower_dirs)")
mount -t proc proc $ROOT/proc; mount --rbind /sys $ROOT/sys; mount --rbind /dev $ROOT/dev
mount -t tmpfs -o mode=1777 tmpfs $ROOT/dev/shm
mount --bind $TOP/home $ROOT/home
for d in lib spool log; do mount --bind $TOP/\$d $ROOT/var/\$d/condor; done
$([ "$CGROUPS" != v1 ] || v1_view)
ip link set lo up; hostname pool
cd $ROOT; mkdir -p .old; pivot_root . .old; cd /; umount -l /.old; rmdir /.old
mkdir -p /run/condor /run/lock/condor; chown condor:condor /run/condor /run/lock/condor
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root
SH
}

# An "&" in a non-interactive shell makes its child ignore SIGINT and SIGQUIT, which would leak down to every job.
# exec: whoever starts this in the background gets the pid of unshare itself. A session of its own, so that nobody's
# ^C or timeout ends it, but stop.
boxed() { exec env --default-signal=INT,QUIT $1 unshare -m -p -n -u -i --propagation private --fork --kill-child sh "${@:2}"; }

make_top() {
  local d condor
  condor=$(awk -F: '$1 == "condor" { print $3 ":" $4 }' "$TREE/etc/passwd")
  [ ! -e "$TOP" ] || [ -e "$TOP/.pool" ] || [ -z "$(ls -A "$TOP")" ] || die "$TOP exists and is not a pool's"
  mkdir -p "$TOP"; touch "$TOP/.pool"; chmod 755 "$TOP"
  mkdir -p "$ROOT" "$TOP"/{upper,work,home}
  for d in lib spool log; do mkdir -p "$TOP/upper/var/$d/condor" "$TOP/$d"; chown "$condor" "$TOP/$d"; done
  # The startd wants it to be condor's, whoever comes first.
  mkdir "$TOP/lib/execute"; chown "$condor" "$TOP/lib/execute"
  for d in alice:2001 bob:2002; do
    mkdir -p "$TOP/home/${d%:*}"; chown "${d#*:}:${d#*:}" "$TOP/home/${d%:*}"; chmod 700 "$TOP/home/${d%:*}"
  done
  mkdir -p "$TOP/upper/etc/condor/config.d" "$TOP/upper/etc/condor_starter"
  pool_config >"$TOP/upper/etc/condor/config.d/50-pool"
  procd_config >"$TOP/upper/etc/condor_starter/procd.conf"
}

starter_path() {
  case $POOL_STARTER in
    genuine) echo /usr/sbin/condor_starter ;;
    daemon) echo /usr/local/sbin/condor_starter ;;
    *) echo /opt/condor_starter/bin/condor_starter ;;
  esac
}

pool_config() {
  cat <<CONF
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = false
ENABLE_IPV6 = false
COLLECTOR_HOST = 127.0.0.1:$PORT
SHARED_PORT_PORT = $PORT
UID_DOMAIN = pool.test
TRUST_UID_DOMAIN = true
FILESYSTEM_DOMAIN = pool.test
ALLOW_ADMINISTRATOR = root@*, condor@*
# condor_master would rewrite the host's sysctls.
ENABLE_KERNEL_TUNING = false
START = true
SUSPEND = false
PREEMPT = false
WANT_SUSPEND = false
NUM_CPUS = 2
MEMORY = 4096
BASE_CGROUP = $BASE_GROUP
STARTER = $(starter_path)
MOUNT_UNDER_SCRATCH = "/tmp,/var/tmp"
USE_PID_NAMESPACES = true
# A pool of one user's short jobs: no waiting for the next round of anything.
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
MASTER_UPDATE_INTERVAL = 5
UPDATE_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 5
STARTER_INITIAL_UPDATE_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 3
KILLING_TIMEOUT = 10
MACHINEMAXVACATETIME = 10
${POOL_CONFIG:-}
CONF
}

procd_config() {
  cat <<CONF
execute = /var/lib/condor/execute
run = /run/condor_starter
client = condor
base_cgroup = $BASE_GROUP
CONF
}


# What pid 1 of the pool runs. Our daemons first, when they are to be there; condor_master last, in the foreground.
init_text() {
  enter
  case $POOL_STARTER in daemon) cat <<'SH' ;; esac
mkdir -p /run/condor_starter
/opt/condor_starter/bin/starterctl install-starter /usr/local/sbin/condor_starter
# As a service manager would: whichever dies is started again.
keep() { local out=/var/log/condor/$1.out; shift; while :; do env --default-signal=INT,QUIT "$@" >>$out 2>&1 || sleep 0.1; done; }
keep procd /opt/condor_starter/bin/condor_starter_procd &
keep starterd /opt/condor_starter/bin/condor_starterd --foreground --procd wait &
while [ ! -S /run/condor_starter/intake.sock ]; do sleep 0.05; done
SH
  # Not exec: pid 1 is a shell that waits, and so reaps what is orphaned in the pool.
  echo '/usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /usr/sbin/condor_master -f; sleep 1'
}

# The pid (as the host counts) of the pool's pid 1; nothing if there is none.
inner() {
  local outer; outer=$(cat "$TOP/pid" 2>/dev/null) && [ -d "/proc/$outer" ] || return 0
  tr '\0' ' ' <"/proc/$outer/cmdline" | grep -qF "$TOP" || return 0   # the pid has been given to another process
  cat "/proc/$outer/task/$outer/children" | cut -d' ' -f1
}

prepare() { if [ "$POOL_STARTER" = genuine ]; then install; else ours; fi; }

start() {
  case $POOL_STARTER in daemon | direct | genuine) ;; *) die "POOL_STARTER=$POOL_STARTER: daemon, direct or genuine" ;; esac
  [ -z "$(inner)" ] || { say "already running: pid $(inner)"; return; }
  prepare
  stop   # what an earlier pool at this place left when it was killed
  make_top
  step "pool with STARTER = $(starter_path), CGROUPS=$CGROUPS" up
}

up() {
  init_text >"$TOP/init"
  boxed setsid "$TOP/init" </dev/null >"$TOP/out" 2>&1 9>&- &
  echo $! >"$TOP/pid"; disown
  if [ -n "${POOL_OWNER:-}" ]; then
    setsid sh -c 'tail --pid=$1 -s 0.5 -f /dev/null; exec "$2" stop' sh "$POOL_OWNER" "$SELF" </dev/null >/dev/null 2>&1 9>&- &
    echo $! >"$TOP/watcher"; disown
  fi
  wait_until_up || { tail -n 40 "$TOP/out" "$TOP"/log/MasterLog "$TOP"/log/StartLog >&2 || true; stop; return 1; }
}

wait_until_up() {
  local _
  for _ in $(seq 300); do
    sleep 0.1
    [ -d "/proc/$(cat "$TOP/pid")" ] || return 1
    # The pool is up when a slot is in the collector and the schedd answers.
    [ -n "$(inside condor_status -af Name 2>/dev/null)" ] && inside condor_q -totals >/dev/null 2>&1 && return 0
  done
  return 1
}

enter_pool() {
  local p; p=$(inner); [ -n "$p" ] || die "no pool is running at $TOP"
  exec nsenter -t "$p" -m -p -n -u -i -r -w "$@"
}
inside() { (enter_pool env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root "$@"); }
as() {
  local u=$1; shift
  enter_pool setpriv --reuid "$u" --regid "$u" --init-groups env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    HOME="/home/$u" USER="$u" sh -c 'cd "$HOME"; exec "$@"' sh "$@"
}

solo() {
  prepare
  local mine; mine=$(mktemp -d "${TMPDIR:-/var/tmp}/condor-starter-solo.XXXXXX")
  TOP=$mine ROOT=$mine/root
  make_top
  { enter; echo 'exec "$@"'; } >"$TOP/init"
  local status=0; (boxed "" "$TOP/init" "$@") || status=$?
  remove_top
  return $status
}

# ---------------------------------------------------------------- the end

stop() {
  local p w; p=$(inner)
  if [ -n "$p" ]; then
    timeout 10 "$SELF" in condor_off -fast -master >/dev/null 2>&1 || true
    gone "$p" 30 || kill -KILL "$p" 2>/dev/null || true
    gone "$p" 100 || die "the pool's pid 1 ($p) does not die: $(cat "/proc/$p/stack" 2>/dev/null)"
  fi
  w=$(cat "$TOP/watcher" 2>/dev/null || true)
  # Not when the watcher is what runs this: it has become it, by exec.
  if [ -n "$w" ] && [ "$w" != $$ ] && grep -qzF "$SELF" "/proc/$w/cmdline" 2>/dev/null; then kill -- "-$w" 2>/dev/null || true; fi
  remove_cgroups
  [ ! -e "$TOP/.pool" ] || remove_top
}
gone() { local i; for ((i = 0; i < $2; i++)); do [ -d "/proc/$1" ] || return 0; sleep 0.1; done; return 1; }

# The base group of this pool in every hierarchy, deepest first. They are empty: the pool's processes are dead.
remove_cgroups() {
  local mount
  while read -r mount; do
    [ ! -d "$mount/$BASE_GROUP" ] || find "$mount/$BASE_GROUP" -depth -type d -exec rmdir {} +
  done < <(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts)
}

remove_top() { rm -rf --one-file-system "$TOP"; }

status() {
  say "tree $TREE: $([ -e "$TREE/.complete" ] && echo installed || echo 'not installed')"
  say "pool at $TOP: $([ -n "$(inner)" ] && echo "running, pid $(inner)" || echo 'not running')"
}
clean() { [ -z "$(inner)" ] || die "a pool is running at $TOP"; rm -rf --one-file-system "$CACHE"; }
root() { local p; p=$(inner); [ -n "$p" ] || die "no pool is running at $TOP"; echo "/proc/$p/root"; }

case ${1:-} in
  install | wheels | ours | start | stop | status | clean | root) "$1" ;;
  in) shift; inside "$@" ;;
  as | solo) "$@" ;;
  *) sed -n '2,14p' "$0" | cut -c3-; exit 2 ;;
esac
