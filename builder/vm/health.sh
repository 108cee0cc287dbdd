#!/bin/sh
# Runs the health checks of a machine that has booted, as updater/health.py does on a good slot.
# Fails at the first that fails, and says which in its last line.
network=
grep -qx network=true /etc/belay/settings && network=1
for check in /etc/belay/health.d/*; do
	[ -e "$check" ] || continue
	said=$(BELAY_MODE=good BELAY_DATA='' BELAY_REACHED='' BELAY_NETWORK=$network "$check" 2>&1)
	code=$?
	if [ $code != 0 ] && [ $code != 77 ]; then
		echo "check ${check##*/} failed: $(echo "$said" | tail -n 1)"
		exit 1
	fi
done
