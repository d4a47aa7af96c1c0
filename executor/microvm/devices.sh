# Read by init.sh in a guest to which devices are passed through: loads their driver, holds what is here against the lease, and gives
# the action their nodes.
#
# It has:
#   /driver/order, /driver/NAME.ko   modules, in the order in which they are loaded
#   /lib/firmware                    what they may load
#   /job/devices                     a line for each device: vendor and device, the driver's module and its version
#   /job/nodes                       patterns for names in /dev, a line each
#
# Device N is function 0 at slot N (see executor/microvm/machine.py). A guest that has something else ends here, before its action.
at_most=1000

for module in $(cat /driver/order); do must insmod "/driver/$module.ko"; done

slot=0
cards=0
while read -r ids module version; do
  slot=$((slot + 1))
  at=/sys/bus/pci/devices/$(printf '0000:00:%02x.0' "$slot")
  vendor=
  device=
  read -r vendor 2>/dev/null <"$at/vendor"
  read -r device 2>/dev/null <"$at/device"
  here=${vendor#0x}:${device#0x}
  [ "$here" = "$ids" ] || end "failed devices: the guest has $here, and the lease says $ids"
  driver=$(busybox readlink "$at/driver/module")
  [ "${driver##*/}" = "$module" ] || end "failed devices: $ids is driven by ${driver##*/}, and not by $module: see microvm.gpu_modules"
  here=
  read -r here 2>/dev/null <"/sys/module/$module/version"
  [ "$here" = "$version" ] || end "failed devices: the guest's $module has version $here, and the lease says $version"
  # NVIDIA's modules make no nodes: nvidia-modprobe would (modprobe-utils/nvidia-modprobe-utils.c). All GPUs of a guest are leased.
  if [ "$module" = nvidia ]; then
    must mknod "/dev/nvidia$cards" c 195 "$cards"
    cards=$((cards + 1))
  fi
done </job/devices

if [ "$cards" -gt 0 ]; then
  must mknod /dev/nvidiactl c 195 255
  major=$(grep ' nvidia-uvm$' /proc/devices)
  [ -n "$major" ] || end "failed devices: nvidia-uvm is not among microvm.gpu_modules"
  set -- $major
  must mknod /dev/nvidia-uvm c "$1" 0
  must mknod /dev/nvidia-uvm-tools c "$1" 1
fi

while read -r pattern; do
  tries=$at_most
  until
    set -- /dev/$pattern
    [ -e "$1" ]
  do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || end "failed devices: there is no /dev/$pattern"
    usleep 10000
  done
  for at; do
    must busybox cp -R "$at" /new/dev/
    must busybox chmod 666 "/new/dev/${at##*/}"
  done
done </job/nodes
