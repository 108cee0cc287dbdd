#!/bin/sh
# Makes the slot's root part, out/root.squashfs: the system's packages, the overlay, the services; and
# out/root.sizes, which says how much of it is whose.
#   in/chroot.tar  in/chroot.modes  in/chroot.xattrs  in/numbers  in/numbers.awk  in/overlay  in/overlay.modes  in/services
#   in/updater  in/bytecode.tar
#   in/release.json  in/settings.json  in/settings  in/disk-guid  in/contract.sh
#   in/offline  in/APKINDEX.tar.gz   offline packages, if there are any
#   $OS_NAME $OS_VERSION $OS_BUILT $NODE_LABEL $STICK_LABEL $ARCH
#   $SERIAL     the serial line; nothing: it has no login
#   $NTP        time servers, or nothing
#   $CONSOLE    development: root has an empty password; locked: no password opens any account
set -eu

root=/tmp/root
mkdir "$root"
tar -xf in/chroot.tar -C "$root"
# Users and groups have the same numbers in every release.
numbered=/tmp/numbered
mkdir "$numbered"
cp in/chroot.modes "$numbered/modes"
set -- what=table in/numbers what=user "$root/etc/passwd" what=group "$root/etc/group"
LC_ALL=C awk -F: -v out="$numbered" -f in/numbers.awk "$@"
if [ -e "$numbered/differ" ]; then
	LC_ALL=C awk -F: -v out="$numbered" -f in/numbers.awk "$@" \
		what=passwd "$root/etc/passwd" what=groups "$root/etc/group" \
		what=installed "$root/lib/apk/db/installed" what=modes in/chroot.modes
	cat "$numbered/passwd" >"$root/etc/passwd"
	cat "$numbered/groups" >"$root/etc/group"
	cat "$numbered/installed" >"$root/lib/apk/db/installed"
fi

# Modules and firmware come from the slot's other parts.
mkdir "$root/.modloop"
ln -s /.modloop/modules "$root/lib/modules"
ln -s /.modloop/firmware "$root/lib/firmware"

refuse() {
	echo "ERROR: $*" >&2
	exit 1
}

# Prints the path $1 of the root with the links in its folders followed, inside of the root.
resolved() {
	rest=$1
	path=
	links=0
	while [ -n "$rest" ]; do
		part=${rest%%/*}
		case $rest in
		*/*) rest=${rest#*/} ;;
		*) rest= ;;
		esac
		case $part in
		'' | .) continue ;;
		..) path=${path%/*} ;;
		*)
			path=$path/$part
			if [ -L "$root$path" ] && [ $links -lt 40 ]; then
				links=$((links + 1))
				target=$(readlink "$root$path")
				path=${path%/*}
				case $target in
				/*) path= ;;
				esac
				rest=$target${rest:+/$rest}
			fi
			;;
		esac
	done
	printf '%s\n' "${path#/}"
}

# The overlay, with modes that don't depend on whoever cloned it: git keeps only the x bit.
overlay=/tmp/overlay
cp -R in/overlay "$overlay"
rm -rf "$overlay/lib/firmware" # the modloop part has it
find "$overlay" -type d -exec chmod 755 {} +
find "$overlay" -type f -perm -100 -exec chmod 755 {} +
find "$overlay" -type f ! -perm -100 -exec chmod 644 {} +
# Where the root has a link to a folder, what is below it goes there.
(cd "$overlay" && find . -mindepth 1 -type d | sort) | while read -r folder; do
	folder=${folder#./}
	[ -L "$root/$folder" ] && [ -d "$overlay/$folder" ] || continue
	place=$(resolved "$folder")
	case $place in
	.modloop*) refuse "rootfs/overlay/$folder: what a node has there comes from its modloop part, and would hide this" ;;
	esac
	mkdir -p "$overlay/$place"
	cp -a "$overlay/$folder/." "$overlay/$place/"
	rm -r "${overlay:?}/$folder"
done
for folder in dev run; do
	[ ! -e "$overlay/$folder" ] || refuse "rootfs/overlay/$folder: a node makes it anew at each boot, so nothing of it would be there"
done
# A file that not everybody may read in the root, such as etc/shadow, is not laid open.
: >/tmp/private
(cd "$overlay" && find . -type f) | while read -r file; do
	[ -f "$root/$file" ] && [ ! -L "$root/$file" ] || continue
	mode=$(stat -c %a "$root/$file")
	case $mode in
	*[4567]) ;;
	*)
		chmod "$(printf %o $((0$mode & 0777)))" "$overlay/$file"
		echo "${file#./}" >>/tmp/private
		;;
	esac
done
# A folder that the root has keeps its mode.
(cd "$overlay" && find . -mindepth 1 -type d) | while read -r folder; do
	[ ! -d "$root/$folder" ] || chmod "$(stat -c %a "$root/$folder")" "$overlay/$folder"
done
# A file takes the place of a link: else it would be written to where that leads.
(cd "$overlay" && find . ! -type d) | while read -r file; do
	[ ! -L "$root/$file" ] || rm "$root/$file"
	[ ! -d "$root/$file" ] || refuse "rootfs/overlay/${file#./}: packages have a folder there, and this is none"
done
(cd "$overlay" && find . -mindepth 1 -type d) | while read -r folder; do
	[ ! -e "$root/$folder" ] || [ -d "$root/$folder" ] ||
		refuse "rootfs/overlay/${folder#./}: packages have a file there, and this is a folder"
done
# Who replaces the table of users gives them the numbers that their files have.
for table in passwd:user group:group; do
	file=${table%:*}
	[ ! -f "$overlay/etc/$file" ] || awk -F: -v kind="${table#*:}" -v file="$file" '
		FILENAME == "in/numbers" { if ($1 == kind) number[$2] = $3; next }
		($1 in number) && number[$1] != $3 {
			print "ERROR: rootfs/overlay/etc/" file ": " $1 " has number " $3 ", and " number[$1] " in apk.lock;" \
				" its files have that one: write it there" >"/dev/stderr"
			exit 1
		}' in/numbers "$overlay/etc/$file"
done
cp -a "$overlay/." "$root/"

# The updater, and what Python made of it.
mkdir -p "$root/usr/lib/belay/updater" "$root/data"
cp in/updater/*.py "$root/usr/lib/belay/updater/"
chmod 644 "$root"/usr/lib/belay/updater/*
tar -xf in/bytecode.tar -C "$root"
install -m 644 in/contract.sh "$root/usr/lib/belay/"
# Python would believe it although the overlay has another source.
(cd "$overlay" && find . -name '*.py') | while IFS= read -r source; do
	name=${source##*/}
	rm -f "$root/${source%/*}/__pycache__/${name%.py}".*.pyc
done

# Offline packages. The path is the image's, so it is not in /etc: that is the user's.
if [ -d in/offline ]; then
	repository=usr/share/belay/packages
	mkdir -p "$root/$repository/$ARCH" "$root/lib/apk/repositories.d"
	cp in/offline/*.apk in/APKINDEX.tar.gz "$root/$repository/$ARCH/"
	chmod 644 "$root/$repository/$ARCH"/*
	echo "/$repository" >"$root/lib/apk/repositories.d/belay.list"
fi

mkdir -p "$root/etc/belay"
for file in release.json settings.json settings disk-guid; do
	install -m 644 "in/$file" "$root/etc/belay/"
done
echo "$STICK_LABEL" >"$root/etc/belay/stick-label"
echo "$NODE_LABEL" >"$root/etc/belay/node-label"
echo "$OS_NAME $OS_VERSION" >"$root/etc/belay/release"
echo "$OS_BUILT" >"$root/etc/belay/built"
echo "$OS_NAME" >"$root/etc/hostname"
printf '%s %s on \\l\n\n' "$OS_NAME" "$OS_VERSION" >"$root/etc/issue"

case $CONSOLE in
development) password= ;;
*) password='*' ;;
esac
sed -i "s/^root:[^:]*:/root:$password:/" "$root/etc/shadow"

servers=
for server in $NTP; do
	servers="$servers -p $server"
done
[ -e "$overlay/etc/conf.d/ntpd" ] || echo "NTPD_OPTS=\"-N$servers\"" >"$root/etc/conf.d/ntpd"

# A card that is plugged in gets its address.
[ -e "$overlay/etc/mdev.conf" ] ||
	sed -i '1i\
-SUBSYSTEM=net;.*	root:root	0600	*/usr/lib/belay/card' \
		"$root/etc/mdev.conf"

if [ -n "$SERIAL" ]; then
	sed -i "s/ttyS0/$SERIAL/g" "$root/etc/inittab"
else
	sed -i '/^ttyS/d' "$root/etc/inittab"
fi

sed 's/#.*//' in/services | while read -r runlevel service more; do
	[ -n "$runlevel" ] || continue
	[ "$service" != ntpd ] || [ -n "$NTP" ] || continue
	[ -n "$service" ] && [ -z "$more" ] ||
		refuse "rootfs/services: found \"$runlevel${service:+ $service}${more:+ $more}\", wanted RUNLEVEL SERVICE"
	[ -d "$root/etc/runlevels/$runlevel" ] ||
		refuse "rootfs/services: there is no runlevel $runlevel; there are:" "$(cd "$root/etc/runlevels" && echo *)"
	[ -e "$root/etc/init.d/$service" ] ||
		refuse "rootfs/services: there is no service $service in /etc/init.d of the packages and of rootfs/overlay"
	[ -x "$root/etc/init.d/$service" ] ||
		refuse "etc/init.d/$service is not executable: chmod +x rootfs/overlay/etc/init.d/$service"
	ln -s "/etc/init.d/$service" "$root/etc/runlevels/$runlevel/$service"
done

# A check that can't run would be no check, and any release would pass it.
for check in "$root"/etc/belay/health.d/*; do
	[ -f "$check" ] && [ -x "$check" ] ||
		refuse "etc/belay/health.d/${check##*/} is no executable file, so it can check nothing:" \
			"chmod +x rootfs/overlay/etc/belay/health.d/${check##*/}, or remove it"
done

# What depends on what, worked out now instead of at each boot. After the last change to services: a
# list that is older than a service silently leaves it out.
mkdir -p "$root/run/openrc" "$root/var/cache/rc"
chroot "$root" /sbin/rc-update -u
mv "$root/run/openrc/deptree" "$root/run/openrc/depconfig" "$root/var/cache/rc/"
rm -rf "${root:?}"/run/*

# In the container all belongs to root. What packages want is in $numbered/modes, but for what lies in the
# overlay: that is root's, where rootfs/overlay.modes doesn't ask for something else.
id_of() {
	case $2 in
	*[!0-9]*) awk -F: -v name="$2" '$1 == name { print $3; exit }' "$root/etc/$1" ;;
	*) echo "$2" ;;
	esac
}
while read -r mode owner group path; do
	[ -n "$mode" ] || continue
	case $path in
	*/*) path=$(resolved "${path%/*}")/${path##*/} ;;
	esac
	uid=$(id_of passwd "$owner")
	gid=$(id_of group "$group")
	[ -n "$uid" ] || refuse "rootfs/overlay.modes: the image has no user $owner, for $path"
	[ -n "$gid" ] || refuse "rootfs/overlay.modes: the image has no group $group, for $path"
	echo "$mode $uid $gid $path"
done <in/overlay.modes >/tmp/asked
(cd "$overlay" && find . ! -type d) | sed 's|^\./||' | sort >/tmp/all
sort /tmp/private | comm -23 /tmp/all - >/tmp/laid-over
# shellcheck disable=SC2016 # awk's
LC_ALL=C awk '
	FILENAME == "/tmp/laid-over" { mine[$0] = 1; next }
	FILENAME == "/tmp/private" { private[$0] = 1; next }
	{ path = $0; sub(/^[0-7]+ [0-9]+ [0-9]+ /, "", path) }
	FILENAME == owners && path in private { sub(/^[0-7]+/, substr($1, length($1) - 2)) } # not setuid
	FILENAME == "/tmp/asked" { mine[path] = 1 }
	FILENAME == owners && path in mine { next }
	{ gsub(/[\\"]/, "\\\\&", path); printf "\"%s\" m %s %s %s\n", path, $1, $2, $3 }
' owners="$numbered/modes" /tmp/laid-over /tmp/private /tmp/asked "$numbered/modes" >/tmp/modes

# File capabilities and other extended attributes of packages, but for what lies in the overlay.
# shellcheck disable=SC2016 # awk's
LC_ALL=C awk '
	FILENAME == "/tmp/laid-over" { mine[$0] = 1; next }
	{ path = $0; sub(/^[^ ]+ [^ ]+ /, "", path) }
	!(path in mine)
' /tmp/laid-over in/chroot.xattrs >/tmp/xattrs
while IFS= read -r line; do
	rest=${line#* }
	setfattr -h -n "${line%% *}" -v "${rest%% *}" "$root/${rest#* }"
done </tmp/xattrs
# Where there are none, none are looked for: some hosts give files attributes of their own.
set -- -no-xattrs
if [ -s /tmp/xattrs ]; then
	set -- -xattrs
	if mksquashfs -help 2>&1 | grep -q xattrs-exclude; then # since 4.6
		set -- -xattrs-exclude '^security[.](selinux|ima|evm)$'
	fi
fi

{
	awk -F: '
		$1 == "P" { name = $2 }
		$1 == "I" { size = $2 }
		$1 == "F" && $2 ~ /^(lib\/modules|lib\/firmware|boot)/ { elsewhere = 1 }
		$0 == "" { if (!elsewhere) printf "%d package %s\n", size / 1024, name; elsewhere = 0 }
	' "$root/lib/apk/db/installed"
	echo "$(du -sk "$overlay" | cut -f1) rootfs/overlay"
	[ ! -d in/offline ] || echo "$(du -sk in/offline | cut -f1) offline packages"
} >out/root.sizes

# Not compressed: see docs/adr. -no-exports: nobody exports a root.
mksquashfs "$root" out/root.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 128K -no-exports "$@" \
	-mkfs-time 0 -all-time 0 -pf /tmp/modes
