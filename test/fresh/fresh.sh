#!/bin/bash
# fresh.sh: run CI's script on a bare Debian 12 that holds only Go, git and make. Proves that nothing of this machine is needed.
# The clone is of the last commit; HOME and caches are empty; standard input is closed. Everything lies below a temporary folder and is removed.
set -euo pipefail
top=$(git rev-parse --show-toplevel)
go_root=$(go env GOROOT)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/lqfresh.XXXXXX")
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT
command -v mmdebstrap >/dev/null || apt-get install -y -qq -o DPkg::Lock::Timeout=300 mmdebstrap >/dev/null
sources=()
for f in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do [ -s "$f" ] && sources+=("$f"); done
mmdebstrap --quiet --variant=minbase --include=ca-certificates,git,make bookworm "$root" "${sources[@]}"
git clone --quiet "$top" "$root/src"
mkdir -p "$root/usr/local/go"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
proxy=$(go env GOPROXY) sumdb=$(go env GOSUMDB)
export root go_root proxy sumdb
unshare -m -u -i -p --fork --kill-child --propagation private bash -euc '
  mount --bind "$root" "$root"
  mount --bind "$go_root" "$root/usr/local/go"
  mount -o remount,ro,bind "$root/usr/local/go"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  cd "$root"
  mkdir -p .before
  pivot_root . .before
  exec chroot . sh -c "umount -l /.before && rmdir /.before && exec \"\$@\"" sh env -i HOME=/root PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true GOPROXY="$proxy" GOSUMDB="$sumdb" sh -c "cd /src && exec .ci/run"
' </dev/null
