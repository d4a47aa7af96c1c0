#!/bin/sh
# The first process of the nested host (see `host`): puts the machine's files below a layer in memory, and goes on there (after.sh).
export PATH=/bin

give_up() {
  echo "nested host: $1"
  poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko" || give_up "cannot load $module"; done

mount -t tmpfs -o size=75% tmpfs /layer
mkdir /layer/lower /layer/upper /layer/work
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose files /layer/lower || give_up "cannot see files"
mount -t overlay -o lowerdir=/layer/lower,upperdir=/layer/upper,workdir=/layer/work overlay /new || give_up "cannot lay over files"
for at in /proc /sys /dev; do mount --move "$at" "/new$at"; done
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t tmpfs tmpfs /new/run
# No overlay of Armitage's can have its own layer on this one.
mount -t tmpfs tmpfs /new/tmp
mkdir -p /new/run/files /new/lib/modules
mount -o bind /layer/lower /new/run/files
cp -d /modules/all "/new/lib/modules/$(uname -r)"
ifconfig lo up
hostname nested

cp /bin/busybox /after.sh /command.sh /new/run/
exec switch_root /new /run/busybox sh /run/after.sh
