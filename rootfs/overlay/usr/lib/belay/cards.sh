#!/bin/sh
# shellcheck shell=busybox
# The network cards of this node: their names, and which of them ask for an address. Sourced.

# shellcheck source=/dev/null # made by the step rootfs: updater/contract.py
. "${ROOT:-}/usr/lib/belay/contract.sh"
cards=${ROOT:-}/sys/class/net
interfaces=${ROOT:-}$RUN_INTERFACES
mactab=${ROOT:-}$NODE_MACTAB
warnings=${ROOT:-}$RUN_WARNINGS

# Says what is wrong, here and in `belay status`.
warn() {
	echo " * $*"
	grep -qxF "$*" "$warnings" 2>/dev/null || echo "$*" >>"$warnings"
}

# Takes a warning back.
take_back() {
	grep -qxF "$*" "$warnings" 2>/dev/null || return 0
	grep -vxF "$*" "$warnings" >"$warnings.new"
	mv "$warnings.new" "$warnings"
}

# Prints the table: a line NAME ADDRESS for each card.
names() {
	[ -f "$mactab" ] || return 0
	{
		cat "$mactab"
		echo # the last line may lack its end
	} | tr -d '\r' | sed 's/#.*//' | awk 'NF == 2 { print $1, tolower($2) }'
}

# Prints the name of the network card with the address $1.
card_with() {
	local card
	for card in "${ROOT:-}"/sys/class/net/*; do
		[ "$(cat "$card/address" 2>/dev/null)" != "$1" ] || echo "${card##*/}"
	done | head -n 1
}

# Gives the card $1 the name $2.
rename_card() {
	{ ip link set dev "$1" down && ip link set dev "$1" name "$2"; } || warn "mactab: $1 can't be called $2"
}

# Gives network cards the names that the table has for their addresses. Who has a name that is
# wanted gets another one first: two may have each other's.
name_cards() {
	local name address card number=0
	names | while read -r name address; do
		card=$(card_with "$address")
		if [ -z "$card" ]; then
			warn "mactab: no card has the address $address"
		elif [ "$card" != "$name" ]; then
			if [ -e "${ROOT:-}/sys/class/net/$name" ]; then
				number=$((number + 1))
				rename_card "$name" "belay$number"
			fi
			rename_card "$card" "$name"
		fi
	done
	# Those for whose address the table has no name take the first that is free.
	number=0
	for card in "${ROOT:-}"/sys/class/net/belay*; do
		[ -e "$card" ] || continue
		while [ -e "${ROOT:-}/sys/class/net/eth$number" ]; do
			number=$((number + 1))
		done
		rename_card "${card##*/}" "eth$number"
	done
}

# Prints the wired cards. A bridge or a tunnel has no device.
wired() {
	local card type
	for card in "$cards"/*; do
		[ -e "$card/device" ] && [ ! -e "$card/wireless" ] && [ ! -e "$card/phy80211" ] || continue
		read -r type <"$card/type" && [ "$type" = 1 ] && echo "${card##*/}"
	done
}

has_link() {
	[ "$(cat "$cards/$1/carrier" 2>/dev/null)" = 1 ]
}

# Whether nobody wrote another /etc/network/interfaces.
asks_each_card() {
	grep -q "^source $RUN_INTERFACES" "${ROOT:-}/etc/network/interfaces"
}

# Says of each wired card that it asks for an address.
note_cards() {
	local card
	for card in $(wired); do
		printf 'auto %s\niface %s inet dhcp\n' "$card" "$card"
		# Nobody waits for a card without a link; whenever it gets one, it asks.
		has_link "$card" || echo "	udhcpc-opts -t 1 -T 1 -A 3"
	done >"$interfaces"
}
