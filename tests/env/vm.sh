#!/bin/bash
# A real pure cgroup v2 machine with systemd as pid 1, for the tests that need one: a QEMU guest (plain emulation: no
# KVM needed) with Debian's cloud kernel and a Debian root disk, in which Python has our locked dependencies.
#
#   vm.sh install                      Debian packages for it on this machine
#   vm.sh build                        make the guest's image (once for each lock and each version of this script)
#   vm.sh run [OPTIONS] [--] CMD ...   boot, run CMD as root in the guest, end with its exit status
#      -s DIR[:ro]   show this machine's directory DIR in the guest at the same path (repeatable)
#      -C DIR        working directory in the guest (default: the first -s, else /root)
#      -e NAME=VAL   environment (repeatable)
#      -m MIB -c N   memory (2048) and cpus (this machine's, at most 4)
#      -t SECONDS    wall limit for everything (900); exit status 124 when it is hit
#      -k            keep the boot log and say where; on a failed boot it is printed anyway
#   vm.sh clean                        remove the cached images
#
# Nothing persists: the root disk is a snapshot that is thrown away. No network device; output and exit status come
# through serial ports. /opt/condor_starter is a venv with our runtime dependencies and pytest, made offline from
# wheels; our own package is not in it: the tests install it as an admin would. The guest is some ten times slower
# than this machine.
# Environment: CONDOR_STARTER_CACHE=/var/cache/condor-starter   PYTHON=python with pip (default: what setup.sh made)
#   VM_SUITE=bookworm   Debian release of the guest   VM_ACCEL=tcg|kvm   VM_MIRROR=Debian mirror (default: apt's)
set -u
SUITE=${VM_SUITE:-bookworm} ACCEL=${VM_ACCEL:-tcg}
CACHE=${CONDOR_STARTER_CACHE:-/var/cache/condor-starter}/vm
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SELF=$SOURCE/tests/env/vm.sh
GUEST_PACKAGES=systemd,systemd-sysv,dbus,udev,kmod,linux-image-cloud-amd64,python3,python3-venv,iproute2,procps,util-linux,strace
TEST_PACKAGES="pytest pytest-timeout"   # versions come from the lock
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }
took() { local ms=$(( ($(date +%s%N) - $1) / 1000000 )); printf '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10)); }
# step "what" CMD..: say what is being done, and how long it took; the command's output goes to a log.
step() {
    local what=$1 begun; shift; begun=$(date +%s%N); say "$what ..."
    "$@" >>"$LOG" 2>&1 || { tail -n 30 "$LOG" >&2; die "$what: failed after $(took "$begun"); all of it is in $LOG"; }
    say "$what: $(took "$begun")"
}

# ---------------------------------------------------------------- this machine

find_virtiofsd() { local f; for f in /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd; do
    [ -x $f ] && { echo $f; return 0; }; done; return 1; }

install_packages() {
    local want=() p
    for p in qemu-system-x86 mmdebstrap zstd xz-utils lz4 cpio busybox-static e2fsprogs; do
        dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok installed' || want+=("$p")
    done
    # A package of its own since trixie; before, a part of qemu's.
    if ! find_virtiofsd >/dev/null && apt-cache show virtiofsd >/dev/null 2>&1; then want+=(virtiofsd); fi
    [ ${#want[@]} = 0 ] && return 0
    [ "$(id -u)" = 0 ] || die "missing Debian packages, and only root can install them: ${want[*]}"
    mkdir -p "$CACHE"; LOG=$CACHE/apt.log
    step "apt-get update" apt-get -o DPkg::Lock::Timeout=300 update
    step "Debian packages: ${want[*]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${want[@]}"
}

# ---------------------------------------------------------------- the image

lock() { echo "$SOURCE/requirements-dev.lock"; }
# Kept by the digest of what it is made of: the lock, and this script up to here-below's "a run".
image() { echo "$CACHE/$SUITE-$({ sed '/^# -.* a run$/,$d' "$SELF"; cat "$(lock)"; } | sha256sum | cut -c1-12)"; }

build() {
    local image; image=$(image)
    [ -e "$image/.complete" ] && { touch "$image"; return 0; }
    [ "$(id -u)" = 0 ] || die "needs root: the image is a Debian tree with its owners and modes"
    install_packages
    mkdir -p "$CACHE"; exec 9>"$CACHE/lock"; flock 9   # two builds at the same time: the second finds the image made
    if [ ! -e "$image/.complete" ]; then
        # Images that nobody has used for a day.
        find "$CACHE" -mindepth 1 -maxdepth 1 -type d -mmin +1440 -exec rm -rf --one-file-system {} +
        build_image "$image"
    fi
    exec 9>&-
}

build_image() {
    local new=$1.new root=$1.new/root begun; begun=$(date +%s%N)
    rm -rf --one-file-system "$new" "$1"; mkdir -p "$new/wheels"; LOG=$CACHE/$SUITE.log; : >"$LOG"
    step "Debian $SUITE by mmdebstrap" debian_tree "$new" "$root"
    step "wheels of the locked dependencies for the guest's Python" download_wheels "$new/wheels" "$root"
    step "venv /opt/condor_starter in the guest" guest_venv "$new/wheels" "$root"
    step "kernel and first ramdisk" boot_files "$new" "$root"
    step "guest's settings" guest_settings "$root"
    step "disk image" mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" -F "$new/disk.img" 6G
    rm -rf --one-file-system "$root" "$new/wheels" "$new/ramdisk" "$new/tree.tar"
    touch "$new/.complete"; mv "$new" "$1"
    say "image $1: $(du -sh "$1" | cut -f1), made in $(took "$begun")"
}

mirror() {
    [ -z "${VM_MIRROR:-}" ] || { echo "$VM_MIRROR"; return; }
    awk '$1 == "URIs:" { print $2; exit } $1 == "deb" { print $2; exit }' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null
}

debian_tree() {
    # A mirror may be a snapshot, whose Release files are past their Valid-Until date.
    mmdebstrap -q --variant=minbase --format=tar --include="$GUEST_PACKAGES" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' "$SUITE" "$1/tree.tar" $(mirror) &&
        mkdir "$2" && tar -C "$2" -xf "$1/tree.tar"
}

python() { "${PYTHON:-$("$SOURCE/tests/env/setup.sh" tools)/bin/python}" "$@"; }

# Hashes are checked here, by the lock; the installation in the guest then knows nothing but these files.
download_wheels() {
    local version glibc platforms=() v
    version=$(chroot "$2" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || return
    glibc=$(chroot "$2" python3 -c 'import platform; print(platform.libc_ver()[1].split(".")[1])') || return
    for ((v = glibc; v >= 17; v--)); do platforms+=(--platform "manylinux_2_${v}_$(uname -m)"); done
    for v in 2014 2010 1; do platforms+=(--platform "manylinux${v}_$(uname -m)"); done
    python -m pip download --quiet --dest "$1" --no-deps --only-binary=:all: --implementation cp --require-hashes \
        --python-version "$version" "${platforms[@]}" --platform "linux_$(uname -m)" -r "$(lock)" || return
    python -c 'import sys, tomllib; print("\n".join(tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]))' \
        "$SOURCE/pyproject.toml" >"$1/wanted.txt"
}

guest_venv() {
    mkdir "$2/wheels" && cp "$1"/* "$2/wheels/" && chroot "$2" python3 -m venv /opt/condor_starter &&
        chroot "$2" /opt/condor_starter/bin/pip install --no-index --find-links /wheels -r /wheels/wanted.txt $TEST_PACKAGES &&
        rm -r "$2/wheels"
}

# The kernel uncompressed (there is nothing to unpack under emulation), and a ramdisk with the disk's drivers only.
boot_files() {
    local vmlinuz version d=$1/ramdisk f n=10
    vmlinuz=$(ls "$2"/boot/vmlinuz-* | tail -n 1); version=${vmlinuz##*/vmlinuz-}
    uncompressed "$vmlinuz" "$1/vmlinux" || return
    mkdir -p "$d"/{bin,dev,proc,sys,mnt,lib} && cp /bin/busybox "$d/bin/" && ln -s busybox "$d/bin/sh" || return
    for f in $(modules "$2/lib/modules/$version" virtio_pci virtio_blk ext4); do
        case "$f" in *.xz) xz -dc "$f" ;; *) cat "$f" ;; esac >"$d/lib/$n-$(basename "${f%.xz}")"; n=$((n + 1))
    done
    ramdisk_init >"$d/init"; chmod 755 "$d/init"
    (cd "$d" && find . | cpio -o -H newc -R 0:0 --quiet) >"$1/initrd"
}

ramdisk_init() { cat <<'SH'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t devtmpfs dev /dev
for m in /lib/*.ko; do [ -e "$m" ] && $b insmod "$m"; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 50 ]; do $b sleep 0.1; i=$((i+1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /mnt || $b reboot -f
$b mount -t tmpfs -o mode=755 run /mnt/run; $b mkdir /mnt/run/guest; $b cp -a /guest/. /mnt/run/guest/
$b umount /proc; $b mount -o move /dev /mnt/dev
exec $b switch_root /mnt /sbin/init
SH
}

# The files of the named modules and of what they need, in the order of loading; none for what is built in.
modules() { /usr/bin/python3 - "$@" <<'PY'
import os, sys
base, needs, out = sys.argv[1], {}, []
for line in open(base + "/modules.dep"):
    module, _, needed = line.partition(":")
    needs[module.strip()] = needed.split()
by_name = {os.path.basename(m).split(".")[0]: m for m in needs}
def add(module):
    for needed in reversed(needs[module]):
        add(needed)
    if module not in out:
        out.append(module)
for name in sys.argv[2:]:
    if name in by_name:
        add(by_name[name])
print(*(base + "/" + m for m in out))
PY
}

uncompressed() { /usr/bin/python3 - "$1" "$2" <<'PY'
import subprocess, sys
data = open(sys.argv[1], "rb").read()
for magic, command in ((b"\x28\xb5\x2f\xfd", ["zstd", "-dcq"]), (b"\xfd7zXZ\0", ["xz", "-dcq"]),
                       (b"\x1f\x8b\x08", ["gzip", "-dcq"]), (b"\x02\x21\x4c\x18", ["lz4", "-dcq"])):
    at = data.find(magic)
    while at >= 0:
        out = subprocess.run(command, input=data[at:], capture_output=True).stdout
        if out[:4] == b"\x7fELF":
            open(sys.argv[2], "wb").write(out)
            sys.exit(0)
        at = data.find(magic, at + 1)
sys.exit("no kernel in " + sys.argv[1])
PY
}

guest_settings() {
    echo guest >"$1/etc/hostname"; echo "127.0.0.1 localhost guest" >"$1/etc/hosts"; : >"$1/etc/fstab"
    echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"
    chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash tester || return
    cat >"$1/etc/systemd/system/guest.service" <<'UNIT'
[Unit]
Description=run the command that this guest was booted for
After=basic.target dbus.service
[Service]
Type=simple
ExecStart=/bin/bash /run/guest/run
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$1" systemctl -q enable guest.service || return
    # Nothing to update at boot, and nothing that only a desktop or a cloud machine needs: each costs a second here.
    chroot "$1" systemctl -q mask ldconfig.service systemd-journal-catalog-update.service systemd-update-done.service \
        systemd-hwdb-update.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount modprobe@drm.service \
        modprobe@efi_pstore.service systemd-random-seed.service systemd-udev-settle.service \
        systemd-journal-flush.service systemd-sysusers.service systemd-update-utmp.service systemd-user-sessions.service \
        dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount getty@.service serial-getty@.service \
        console-getty.service e2scrub_reap.service fstrim.timer apt-daily.timer apt-daily-upgrade.timer \
        dpkg-db-backup.timer e2scrub_all.timer systemd-networkd-wait-online.service systemd-pcrphase.service
    rm -rf "$1"/var/cache/apt "$1"/var/lib/apt/lists/* "$1"/boot/initrd*
}

# ---------------------------------------------------------------- a run

# What the guest does: mount the shares, run the command, report its exit status, power off.
guest_run() { cat <<'SH'
#!/bin/bash
. /run/guest/conf
for _ in $(seq 100); do
    for p in /sys/class/virtio-ports/*; do
        case "$(cat "$p/name" 2>/dev/null)" in guest.out) out=/dev/${p##*/} ;; guest.status) status=/dev/${p##*/} ;; esac
    done
    [ -c "${out:-}" ] && [ -c "${status:-}" ] && break; sleep 0.1
done
exec >"${out:-/dev/console}" 2>&1 </dev/null
rc=125
trap 'echo $rc >"${status:-/dev/console}"; sync; systemctl poweroff -ff >/dev/null 2>&1' EXIT
i=0; for s in "${SHARES[@]}"; do
    d=${s%:ro}; o=rw; [ "$d" = "$s" ] || o=ro
    mkdir -p "$d"
    mount -t virtiofs -o $o "share$i" "$d" || { echo "vm: cannot mount $d"; exit 125; }
    i=$((i+1))
done
cd "$DIR" || exit 125
export HOME=/root USER=root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin CONDOR_STARTER_VM=1
for e in "${ENVS[@]}"; do export "${e?}"; done
"${COMMAND[@]}"; rc=$?
exit
SH
}

run() {
    local SHARES=() ENVS=() DIR='' COMMAND memory=2048 limit=900 keep='' cpus d
    cpus=$(nproc); [ "$cpus" -gt 4 ] && cpus=4
    while getopts "s:C:e:m:c:t:k" o; do case $o in
        s) d=$(realpath "${OPTARG%:ro}") || die "no directory $OPTARG"
           [ "${OPTARG%:ro}" = "$OPTARG" ] || d=$d:ro; SHARES+=("$d") ;;
        C) DIR=$OPTARG ;; e) ENVS+=("$OPTARG") ;; m) memory=$OPTARG ;; c) cpus=$OPTARG ;;
        t) limit=$OPTARG ;; k) keep=1 ;; *) die "bad option: see the head of $SELF" ;; esac; done
    shift $((OPTIND - 1)); [ $# -gt 0 ] || die "no command"
    COMMAND=("$@")
    build
    [ -n "$DIR" ] || DIR=${SHARES[0]:-/root}; DIR=${DIR%:ro}
    local image work; image=$(image); work=$(mktemp -d "${TMPDIR:-/tmp}/condor-starter-vm.XXXXXX")
    mkdir -p "$work/add/guest"
    { declare -p SHARES ENVS COMMAND; printf 'DIR=%q\n' "$DIR"; } >"$work/add/guest/conf"
    guest_run >"$work/add/guest/run"
    { cat "$image/initrd"; (cd "$work/add" && find guest | cpio -o -H newc -R 0:0 --quiet); } >"$work/initrd"
    local status=0; boot "$image" "$work" "$memory" "$cpus" "$limit" || status=$?
    if [ -n "$keep" ]; then say "kept $work"; else rm -rf "$work"; fi
    return $status
}

# Whatever way this script ends, the machine and its file servers end, too.
PIDS=()
end_all() { local p; for p in "${PIDS[@]}"; do kill "$p" 2>/dev/null; done; wait; PIDS=(); }

boot() {
    local image=$1 work=$2 memory=$3 cpus=$4 limit=$5 devices=() i=0 s server cpu=Nehalem threads=,thread=multi qemu status
    server=$(find_virtiofsd) || die "virtiofsd is not installed: run $SELF install"
    trap end_all EXIT; trap 'exit 130' INT; trap 'exit 143' TERM
    for s in "${SHARES[@]}"; do
        "$server" --socket-path="$work/fs$i.sock" -o "source=${s%:ro},cache=auto,xattr,no_posix_lock,sandbox=chroot" \
            --rlimit-nofile=0 >"$work/fs$i.log" 2>&1 </dev/null & PIDS+=($!)
        devices+=(-chardev "socket,id=fs$i,path=$work/fs$i.sock" -device "vhost-user-fs-pci,chardev=fs$i,tag=share$i,queue-size=1024")
        i=$((i + 1))
    done
    for ((i = 0; i < ${#SHARES[@]}; i++)); do
        for _ in $(seq 100); do [ -S "$work/fs$i.sock" ] && break; sleep 0.05; done
        [ -S "$work/fs$i.sock" ] || { cat "$work/fs$i.log" >&2; die "virtiofsd does not serve ${SHARES[$i]}"; }
    done
    [ "$ACCEL" = kvm ] && { cpu=host; threads=; }
    : >"$work/out"
    TMPDIR=$work timeout -k 5 "$limit" qemu-system-x86_64 -M q35,usb=off,smm=off,vmport=off -accel "$ACCEL$threads" -cpu $cpu \
        -smp "$cpus" -object "memory-backend-memfd,id=mem,size=${memory}M,share=on" -m "$memory" -numa node,memdev=mem \
        -nodefaults -no-user-config -display none -no-reboot -kernel "$image/vmlinux" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 psi=1 cgroup_enable=memory random.trust_cpu=on apparmor=0 raid=noautodetect tsc=unstable" \
        -drive "file=$image/disk.img,format=raw,if=none,id=d0,snapshot=on,cache=unsafe" -device virtio-blk-pci,drive=d0 \
        -device virtio-rng-pci -device virtio-serial-pci \
        -chardev "file,id=out,path=$work/out,append=on" -device virtserialport,chardev=out,name=guest.out \
        -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=guest.status \
        -serial "file:$work/boot.log" "${devices[@]}" </dev/null >/dev/null 2>"$work/qemu.log" & qemu=$!
    PIDS+=("$qemu")
    # The guest's output as it comes; to the end, as tail waits for the machine's.
    tail -n +1 -f --pid="$qemu" -s 0.2 "$work/out"
    wait "$qemu"; local ended=$?
    end_all
    status=$(tr -dc 0-9 <"$work/status" 2>/dev/null)
    if [ -z "$status" ]; then
        status=125; case $ended in 124 | 137) status=124; say "the wall limit of $limit s was hit" ;; esac
        say "no exit status from the guest (qemu $ended); the end of its boot log:"
        tail -n 40 "$work/boot.log" >&2; cat "$work/qemu.log" >&2
    fi
    return "$status"
}

command=${1:-}; [ $# -gt 0 ] && shift
case "$command" in
    install) install_packages ;;
    build) build ;;
    run) run "$@" ;;
    clean) rm -rf --one-file-system "$CACHE" ;;
    *) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2 ;;
esac
