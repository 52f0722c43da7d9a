#!/bin/bash
# First process of a node's namespaces: node_inner.sh DIR NAME attached|detached
# Puts the node's own folders over libvirt's, starts its daemons, and waits.
# When it ends, the kernel kills everything else in the node.
set -u
dir=$1 name=$2 mode=$3

# What an agent outside mounts for its guests later is to be seen in here, where the machine shares its mounts; what is mounted in here stays in here.
mount --make-rslave / || true
mount -t proc proc /proc
hostname "$name"
cp /etc/hosts "$dir/hosts" && echo "127.0.1.1 $name" >>"$dir/hosts" && mount --bind "$dir/hosts" /etc/hosts

bind() { mkdir -p "$1" "$2" && mount --bind "$1" "$2" || exit 1; }
bind "$dir/etc" /etc/libvirt
bind "$dir/run" /run/libvirt
bind "$dir/lib" /var/lib/libvirt
bind "$dir/log" /var/log/libvirt
bind "$dir/cache" /var/cache/libvirt

# A fresh sysfs shows this network namespace's devices. With the old control
# group mounts gone libvirt runs guests without control groups.
umount -R /sys/fs/cgroup 2>/dev/null
mount -t sysfs sysfs /sys
ip link set lo up

# In a chroot (a container made by hand, a bare root to test in) libvirt would
# prepare a guest's private /dev at the namespace's root, which is elsewhere.
if [ "$(stat -c %d:%i /)" != "$(nsenter --mount=/proc/self/ns/mnt stat -c %d:%i / 2>/dev/null)" ]; then
	echo 'namespaces = []' >>/etc/libvirt/qemu.conf
fi

/usr/sbin/virtlogd -d -p /run/libvirt/virtlogd.pid </dev/null || exit 1
/usr/sbin/libvirtd -l -d -p /run/libvirt/libvirtd.pid </dev/null || exit 1

# Attached: standard input is a pipe whose other end only the starter holds, so
# the node ends with it. bash reaps the daemons' children in both modes.
if [ "$mode" = attached ]; then
	read -r _
else
	while :; do
		sleep 86400 &
		wait
	done
fi
