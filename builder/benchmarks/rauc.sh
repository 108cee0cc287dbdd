#!/bin/sh
# Fetches a bundle and lets RAUC install it into a file, over a message bus of its own.
#   rauc.sh FOLDER URL
# FOLDER has system.conf. It prints the seconds, and the KiB of memory that the service had at most.
set -eu

folder=$1 url=$2
export DBUS_SYSTEM_BUS_ADDRESS="$DBUS_SESSION_BUS_ADDRESS"
rauc --conf "$folder/system.conf" --mount "$folder/mnt" --override-boot-slot=a service \
	>"$folder/service.log" 2>&1 &
service=$!
trap 'kill $service' EXIT
tries=0
until rauc status >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] || exit 1
	sleep 0.1
done
start=$(date +%s.%N)
curl -sf -o "$folder/fetched.raucb" "$url"
rauc install "$folder/fetched.raucb" >/dev/null
end=$(date +%s.%N)
echo "$start $end $(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$service/status")"
