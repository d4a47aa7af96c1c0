#!/bin/sh
# The first process of a guest. Runs one action and leaves its outputs on a disk.
#
# It has:
#   /job/settings   variables (see executor/microvm/job.py)
#   /job/run        what to run, for the shell of the action's root
#   /job/etc        files of the action's /etc, unless its root is the input root
#   /job/files      more files that the action sees, by their paths
#   /driver         the driver of devices that are passed through (devices.sh), where there are any
#   /job/outputs    paths of outputs below the input root, each ended by a NUL
#   disks           input (ext4, the input root), outputs (empty), toolchain (squashfs; may be absent)
#   ports           stdout, stderr; where it has none, two more disks, which are empty
#
# On the console it says, a line each: `ready` before the command starts, `printed BYTES BYTES` for how much of stdout and stderr is
# on their disks, `exit CODE` when the command has ended, `oom` when memory ran out, `failed WORDS` when something of its own did, and
# `done` when all is on disk.
#
# Nothing that it says is believed for more than this one action's result: whoever breaks into the guest can say anything here.
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

# A line of the kernel's log is on the console at once and as a whole, whatever else prints there. What a line of ours begins with is
# known to no action: nor may it read that log.
exec 9>/dev/kmsg
TOKEN=armitage
say() { echo "<0>$TOKEN $*" >&9; }
echo 1 >/proc/sys/kernel/dmesg_restrict

give_up() {
  say "$1"
  reboot -f
}

read -r cmdline </proc/cmdline
for module in $(cat /modules/order); do
  set --
  if [ "$module" = virtio_mmio ]; then
    # Where the devices are; the kernel hands this only to what is built in.
    for word in $cmdline; do
      case $word in virtio_mmio.device=*) set -- "$@" "${word#virtio_mmio.}" ;; esac
    done
  fi
  insmod "/modules/$module.ko" "$@" || give_up "cannot load $module"
done

case " $cmdline " in *" armitage.probe "*)
  say "guest is up"
  reboot -f
  ;;
esac

# port NAME: sets $found to its device node, which appears a moment after its driver.
port() {
  tries=1000
  while [ "$tries" -gt 0 ]; do
    for at in /sys/class/virtio-ports/*; do
      read -r name 2>/dev/null <"$at/name" || continue
      if [ "$name" = "$1" ]; then
        found=/dev/${at##*/}
        return
      fi
    done
    usleep 10000
    tries=$((tries - 1))
  done
  end failed "there is no port $1"
}

# disk NAME: sets $found to its device node, empty when there is none. Where disks have no serial numbers, it is told their nodes.
disk() {
  found=
  for at in $DISKS; do
    case $at in "$1="*) found=${at#*=} ;; esac
  done
  if [ -n "$DISKS" ]; then return; fi
  for at in /sys/block/vd*; do
    serial=
    read -r serial 2>/dev/null <"$at/serial"
    if [ "$serial" = "$1" ]; then found=/dev/${at##*/}; fi
  done
}

end() {
  sync
  say "$*"
  reboot -f
}

must() { "$@" 2>/tmp/error || end "failed $1: $(head -c 200 /tmp/error | tr '\n' ' ')"; }

# show FROM TO: makes something of the toolchain visible; what is below /etc one by one, since some of that is of our making.
show() {
  if [ -L "$1" ]; then
    must cp -d "$1" "$2"
  elif [ "$1" = /ro/etc ]; then
    must mkdir -p "$2"
    for below in /ro/etc/*; do
      if [ ! -e "/job/etc/${below##*/}" ]; then show "$below" "$2/${below##*/}"; fi
    done
  elif [ -d "$1" ]; then
    must mkdir -p "$2"
    must mount -o bind "$1" "$2"
  elif [ -f "$1" ]; then
    must touch "$2"
    must mount -o bind "$1" "$2"
  fi
}

. /job/settings
# The kernel's own words would be in the way of ours.
dmesg -n 1
hostname "$HOST_NAME"
disk input
input=$found
if [ "$IS_ROOT" = 1 ]; then
  must mount -t ext4 -o nosuid,nodev "$input" /new
  home=/new
else
  must mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /new
  disk toolchain
  if [ -n "$found" ]; then
    must mount -t squashfs -o ro,nosuid,nodev "$found" /ro
    for at in /ro/*; do show "$at" "/new/${at##*/}"; done
  fi
  mkdir -p /new/etc
  cp /job/etc/* /new/etc
  home=/new$MOUNTED_AT
  must mkdir -p "$home"
  must mount -t ext4 -o nosuid,nodev "$input" "$home"
fi
rm -rf "$home/lost+found"

# A granted network is the witness alone, whose ports QEMU's machine shows at this address (see executor/microvm/machine.py): the
# action finds them on its own loopback, as in any other sandbox.
if [ -n "$WITNESS_PORTS" ]; then
  for module in $(cat /modules/network); do must insmod "/modules/$module.ko"; done
  must ifconfig lo up
  must ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
  for at in $WITNESS_PORTS; do
    nc -ll -p "$at" -e /bin/busybox nc 10.0.2.2 "$at" </dev/null >/dev/null 2>&1 &
    until grep -qi ":$(printf %04X "$at") [0-9A-F:]* 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null; do usleep 10000; done
  done
fi
for at in /job/files/*; do
  if [ -e "$at" ]; then must cp -R "$at" /new/; fi
done

made=
for place in proc dev tmp; do
  if [ ! -d "/new/$place" ]; then
    must mkdir "/new/$place"
    made="$made /new/$place"
  fi
done
must mount -t proc -o nosuid,nodev,noexec proc /new/proc
must mount -t tmpfs -o "mode=1777,nosuid,nodev,size=$TMP_BYTES" tmpfs /new/tmp
must mount -t tmpfs -o mode=755,nosuid tmpfs /new/dev
mkdir /new/dev/shm /new/dev/armitage
must mount -t tmpfs -o "mode=1777,nosuid,nodev,size=$TMP_BYTES" tmpfs /new/dev/shm
mknod -m 666 /new/dev/null c 1 3
mknod -m 666 /new/dev/zero c 1 5
mknod -m 666 /new/dev/full c 1 7
mknod -m 666 /new/dev/random c 1 8
mknod -m 666 /new/dev/urandom c 1 9
ln -s /proc/self/fd /new/dev/fd
ln -s /proc/self/fd/0 /new/dev/stdin
ln -s /proc/self/fd/1 /new/dev/stdout
ln -s /proc/self/fd/2 /new/dev/stderr
# Where devices are passed through.
if [ -e /driver/devices.sh ]; then . /driver/devices.sh; fi
# The command is started by a shell in its own root, which may hold none.
must cp /bin/busybox /job/run /new/dev/armitage
must mount -o remount,ro,nosuid /new/dev
if [ "$IS_ROOT" != 1 ]; then must mount -o remount,ro,nosuid,nodev /new; fi

if [ -n "$DISKS" ]; then find=disk; else find=port; fi
$find stdout
stdout=$found
exec 7>"$stdout"
$find stderr
stderr=$found
exec 8>"$stderr"

# Says how far the command's descriptors, which are ours as well, have been written to.
last="0 0"
printed() {
  read -r _ out </proc/self/fdinfo/7
  read -r _ err </proc/self/fdinfo/8
  if [ "$out $err" = "$last" ]; then return; fi
  must sync "$stdout" "$stderr"
  say "printed $out $err"
  last="$out $err"
}

# The command prints to pipes, which it can also open by name (/dev/stderr); a port or a disk it could not.
pass_on() {
  echo -1000 >/proc/self/oom_score_adj
  exec cat
}
mkfifo -m 666 /tmp/stdout /tmp/stderr
pass_on </tmp/stdout >&7 &
out=$!
pass_on </tmp/stderr >&8 &
err=$!

say ready
if [ -n "$DISKS" ]; then while usleep 1000000; do printed; done & fi
chroot /new /dev/armitage/busybox sh /dev/armitage/run </dev/null >/tmp/stdout 2>/tmp/stderr 7>&- 8>&- 9>&- &
wait $!
code=$?
# Everything else that the action has started: stopped first, so that nothing starts more. What it printed is still passed on.
kill -STOP -1
for at in /proc/[0-9]*; do
  case ${at#/proc/} in 1 | "$out" | "$err") ;; *) kill -9 "${at#/proc/}" 2>/dev/null ;; esac
done
kill -CONT "$out" "$err"
wait
if [ -n "$DISKS" ]; then printed; fi
if dmesg | grep -q 'Out of memory: Killed'; then say oom; fi
say "exit $code"

umount -l /new/dev/shm
umount -l /new/dev
umount -l /new/tmp
umount -l /new/proc
# Not the action's work, so not among its outputs.
if [ "$IS_ROOT" = 1 ] && [ -n "$made" ]; then rmdir $made; fi

if [ -s /job/outputs ]; then
  disk outputs
  cd "$home" || end failed "the input root is gone"
  large='for at; do [ -e "$at" ] && find "$at" -xdev -type f -size +4194303k; done; :'
  if [ -n "$(xargs -0 sh -c "$large" sh </job/outputs)" ]; then
    end "failed outputs: a file has 4 GiB or more"
  fi
  list='for at; do { [ -e "$at" ] || [ -L "$at" ]; } && find "$at" -xdev -print0; done; :'
  xargs -0 sh -c "$list" sh </job/outputs >/tmp/list
  cpio -0 -o -H newc </tmp/list >"$found" 2>/tmp/error || end "failed outputs: $(head -c 200 /tmp/error | tr '\n' ' ')"
fi
end done
