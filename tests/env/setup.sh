#!/bin/bash
# The set-up that `make` does, each step with what it does and how long it took. Idempotent; what is there stays.
#
#   setup.sh venv     Python with our locked dependencies and this checkout in it
#   setup.sh where    print that venv's directory
#   setup.sh tools    print the directory of the programs for development (ruff, mypy)
#   setup.sh system | docker | vm | pool | bench    what that suite needs
#   setup.sh lock     make requirements.lock and requirements-dev.lock anew from pyproject.toml
#
# As root on Debian it installs what is missing with apt-get; as an ordinary user it says what is missing.
#
# Where the venv is. Normally .venv in the checkout, with the checkout installed as editable. But a checkout that other
# accounts cannot read (under /root, or in a directory made by mktemp) is useless to processes that have dropped root:
# then root's venv lies in the cache, and this checkout is installed into it by its wheel, as an admin would do it.
# There the dependencies are one venv for each lock, and our package another for each state of the sources on top of it:
# nothing that somebody may be using is ever changed.
#
# Environment: PYTHON=/usr/bin/python3   CONDOR_STARTER_CACHE=/var/cache/condor-starter
set -euo pipefail
umask 022
PYTHON=${PYTHON:-/usr/bin/python3}
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${CONDOR_STARTER_CACHE:-/var/cache/condor-starter}/venv
ROOT=''; [ "$(id -u)" != 0 ] || ROOT=yes
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
took() { local ms=$(( ($(date +%s%N) - $1) / 1000000 )); printf '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10)); }
# step "what" CMD..: say what is being done, and how long it took; show the output only when it fails.
step() {
    local what=$1 begun log; shift; begun=$(date +%s%N); log=$(mktemp); say "$what ..."
    "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; rm -f "$log"; die "$what: failed after $(took "$begun")"; }
    rm -f "$log"; say "$what: $(took "$begun")"
}

# ---------------------------------------------------------------- Debian packages

# packages NAME..: install what is missing. Starts no service: neither by policy-rc.d nor by runlevel.
packages() {
    local missing=() p policy=/usr/sbin/policy-rc.d made=''
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} != 0 ] || return 0
    [ -n "$ROOT" ] || die "missing, and only root can install it: apt-get install ${missing[*]}"
    command -v apt-get >/dev/null || die "this is no Debian: install by its own means what Debian calls ${missing[*]}"
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; }
    local status=0
    (step "apt-get update" apt-get -o DPkg::Lock::Timeout=300 update
     step "Debian packages: ${missing[*]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}") || status=$?
    [ -z "$made" ] || rm -f $policy
    return $status
}

# ---------------------------------------------------------------- Python

# Whether accounts other than ours can come to the checkout and read all of the sources.
readable_by_all() {
    local d=$SOURCE
    while :; do
        [ -n "$(find "$d" -maxdepth 0 -perm -o=x)" ] || return 1
        [ "$d" != / ] || break
        d=$(dirname "$d")
    done
    [ -z "$(find "$SOURCE/src" \( -type d ! -perm -o=rx -o -type f ! -name '*.pyc' ! -perm -o=r \) -print -quit)" ]
}
in_cache() { [ -n "$ROOT" ] && ! readable_by_all; }

digest() { sha256sum | cut -c1-12; }
deps_digest() { { cat "$SOURCE/requirements-dev.lock"; "$PYTHON" -VV; echo "$PYTHON"; } | digest; }
ours_digest() {
    (cd "$SOURCE" && find src $(ls -d etc systemd 2>/dev/null || true) pyproject.toml README.md LICENSE -type f ! -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum | digest)
}
tools() { if in_cache; then echo "$CACHE/deps-$(deps_digest)"; else echo "$SOURCE/.venv"; fi; }
where() { if in_cache; then echo "$CACHE/ours-$(deps_digest)-$(ours_digest)"; else echo "$SOURCE/.venv"; fi; }

python_is_there() {
    # A Python of Debian's wants its venv package; any other one brings venv with it.
    case $PYTHON in /usr/bin/python3*) [ ! -e /etc/debian_version ] || packages python3 python3-venv ca-certificates ;; esac
    "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$PYTHON must be Python 3.11 or later with venv; set PYTHON= to another one"
}

# dependencies DIR: a venv with the locked dependencies, checked by their hashes.
dependencies() {
    [ -x "$1/bin/python" ] || step "venv $1 with $("$PYTHON" -V)" "$PYTHON" -m venv "$1"
    step "locked dependencies" "$1/bin/python" -m pip install --require-hashes -r "$SOURCE/requirements-dev.lock"
}

venv() {
    python_is_there
    if in_cache; then venv_in_cache; else venv_in_checkout; fi
}

venv_in_checkout() {
    local dir=$SOURCE/.venv stamp
    stamp=$(deps_digest)-$(digest <"$SOURCE/pyproject.toml")
    exec 9<"$SOURCE/pyproject.toml"; flock 9   # two makes at the same time: the second finds it made
    if [ "$(cat "$dir/.stamp" 2>/dev/null)" != "$stamp" ]; then
        dependencies "$dir"
        step "this checkout, editable" "$dir/bin/python" -m pip install --no-deps --no-build-isolation --editable "$SOURCE"
        echo "$stamp" >"$dir/.stamp"
    fi
    exec 9<&-
}

venv_in_cache() {
    local deps ours; deps=$(tools) ours=$(where)
    mkdir -p "$CACHE"; exec 9>"$CACHE/lock"; flock 9
    # What nobody has used for a day.
    find "$CACHE" -mindepth 1 -maxdepth 1 -type d -mmin +1440 ! -path "$deps" -exec rm -rf --one-file-system {} +
    if [ ! -e "$deps/.complete" ]; then
        rm -rf --one-file-system "$deps"; dependencies "$deps"; touch "$deps/.complete"
    fi
    if [ ! -e "$ours/.complete" ]; then
        rm -rf --one-file-system "$ours"
        step "this checkout as a wheel into $ours" install_wheel "$deps" "$ours"
        touch "$ours/.complete"
    fi
    touch "$deps" "$ours"
    exec 9>&-
}

install_wheel() {
    local wheels; wheels=$(mktemp -d)
    "$1/bin/python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$wheels" "$SOURCE" &&
        "$PYTHON" -m venv --without-pip "$2" &&
        echo "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
            >"$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth" &&
        "$1/bin/python" -m pip --python "$2/bin/python" install --no-deps "$wheels"/*.whl
    local status=$?; rm -rf "$wheels"; return $status
}

lock() {
    local dir; dir=$(mktemp -d); trap 'rm -rf "$dir"' RETURN
    python_is_there
    step "pip-tools" sh -c '"$1" -m venv "$2" && "$2/bin/pip" install --quiet pip-tools' sh "$PYTHON" "$dir/venv"
    printf 'hatchling\neditables\n' >"$dir/build.in"   # what builds our wheel and the editable installation
    compile "$dir" requirements.lock "runs" pyproject.toml
    compile "$dir" requirements-dev.lock "runs, tests and builds" --extra dev pyproject.toml "$dir/build.in"
}

compile() {
    local dir=$1 out=$2 what=$3; shift 3
    (cd "$SOURCE" && step "$out" "$dir/venv/bin/pip-compile" --quiet --generate-hashes --strip-extras --allow-unsafe \
        --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --no-emit-options -o "$dir/out" "$@")
    { echo "# Exact versions and hashes of what $what. Made by \`make lock\` from pyproject.toml; not edited by hand."
      cat "$dir/out"; } >"$SOURCE/$out"
    rm "$dir/out"
}

# ---------------------------------------------------------------- the suites' environments

environment() {
    case $ROOT:$1 in :docker | :vm | :pool) die "the $1 suite needs root" ;; esac
    case $1 in
        docker) packages docker.io iptables busybox-static tini curl iproute2 ;;
        system) [ -z "$ROOT" ] || packages curl busybox-static iproute2 procps ;;
        bench) [ -z "$ROOT" ] || packages gcc libc6-dev ;;
        vm) venv; PYTHON=$(tools)/bin/python "$SOURCE/tests/env/vm.sh" build ;;
        pool) venv; PYTHON=$(tools)/bin/python "$SOURCE/tests/env/pool.sh" ours ;;
    esac
}

case ${1:-} in
    venv | where | tools | lock) "$1" ;;
    system | docker | vm | pool | bench) environment "$1" ;;
    *) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2 ;;
esac
