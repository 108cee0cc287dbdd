#!/bin/sh
# What the services need to know of the disk that the system runs from, and of its settings. Sourced.

# The setting $1 as the updater reads it (updater/node.py): the node's own, else that of the image. With
# $2, a number that is at least that; what is none counts as not said.
setting() {
	for own_file in "${ROOT:-}/run/belay/node/settings.json" "${ROOT:-}/etc/belay/settings.json"; do
		[ -f "$own_file" ] || continue
		own_value=$(tr '\n' ' ' <"$own_file" |
			sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\(\"[^\"]*\"\|[^][,{}[:space:]\"]*\).*/\1/p")
		case $own_value in
		'') continue ;;
		\"*\") [ -z "${2:-}" ] || continue ;;
		*[!0-9]* | ?????????*) continue ;;
		*) [ -n "${2:-}" ] && [ "$own_value" -ge "$2" ] || continue ;;
		esac
		own_value=${own_value#\"}
		echo "${own_value%\"}"
		return 0
	done
}

# The value of one word of the kernel's command line.
boot_argument() {
	own_value=
	read -r own_line <"${ROOT:-}/proc/cmdline"
	for own_word in $own_line; do
		case $own_word in
		"$1"=*) own_value=${own_word#*=} ;;
		esac
	done
	echo "$own_value"
}

# The name of the disk with the booted slot, such as sda.
own_disk() {
	own_entry=$(grep -lix "PARTUUID=$(boot_argument belay.partuuid)" \
		"${ROOT:-}"/sys/class/block/*/uevent | head -n 1)
	[ -n "$own_entry" ] || return 1
	own_entry=$(readlink -f "${own_entry%/uevent}")
	own_entry=${own_entry%/*}
	echo "${own_entry##*/}"
}

# The name of the partition with the GPT name $1, such as sda2, of disk $2.
own_partition() {
	own_entry=$(grep -lx "PARTNAME=$1" "${ROOT:-}/sys/class/block/${2:?a disk}"/*/uevent)
	[ -n "$own_entry" ] || return 1
	own_entry=${own_entry%/uevent}
	echo "${own_entry##*/}"
}
