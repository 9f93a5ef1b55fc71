#!/bin/bash
# Makes a node's mount namespace and holds it open. usage: node.sh DIR NAME FOLDER...
set -e
dir=$1 name=$2
shift 2
# As on a machine that was booted: mounts are shared.
mount --make-rshared /
for folder in "$@"; do
    [ -d "$folder" ] || echo "$folder" >>"$dir/made"
    mkdir -p "$dir/fs$folder" "$folder"
    mount --bind "$dir/fs$folder" "$folder"
    mount --make-shared "$folder"
done
mkdir -p /opt/cni/bin /etc/cni/net.d
[ -e /opt/cni/bin/host-local ] || cp /usr/lib/cni/* /opt/cni/bin/
mount -t bpf bpf /sys/fs/bpf
hostname "$name"
echo $$ >"$dir/holder.pid"
exec sleep infinity
