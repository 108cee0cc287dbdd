#!/bin/sh
# Checks the offline packages: each must be signed by a key of the mirror. The signed index is made
# where the key is (builder/alpine/offline.py).
#   in/packages  in/keys
set -eu

for package in in/packages/*.apk; do
	apk verify --keys-dir /srv/in/keys "$package" >/tmp/said 2>&1 || {
		cat /tmp/said
		echo "${package##*/}: no key of the mirror signed it, or it is damaged; ./inv fetch brings it again" >&2
		exit 1
	}
done
