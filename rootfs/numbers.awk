# Gives users and groups their numbers of apk.lock: in passwd, group, apk's database and the list of
# owners. Run as
#   awk -F: -f numbers.awk -v out=FOLDER what=table TABLE what=user PASSWD what=group GROUP \
#       what=passwd PASSWD what=groups GROUP what=installed DATABASE what=modes OWNERS
# TABLE has user:NAME:NUMBER and group:NAME:NUMBER. Each file comes out in FOLDER under the name of
# what it is. Where a number isn't what it shall be, FOLDER has a file "differ".
BEGIN { OFS = ":" }

# The number that takes the place of another one.
function uid(number) { return (number in users) ? users[number] : number }
function gid(number) { return (number in groups) ? groups[number] : number }

function refuse(kind, name) {
	print "ERROR: apk.lock has no number for the " kind " " name ": run ./inv lock" >"/dev/stderr"
	refused = 1
	exit 1
}

what == "table" { table[$1, $2] = $3; next }
what == "user" && ("user", $1) in table { users[$3] = table["user", $1]; next }
what == "group" && ("group", $1) in table { groups[$3] = table["group", $1]; next }
what == "user" || what == "group" { if ($3 >= 100) refuse(what, $1); next }

what == "passwd" { $3 = uid($3); $4 = gid($4) }
what == "groups" { $3 = gid($3) }
# M:UID:GID:MODE of a folder, a:UID:GID:MODE of a file.
what == "installed" && /^[Ma]:/ { $2 = uid($2); $3 = gid($3) }
what == "modes" {
	split($0, part, " ")
	path = substr($0, length(part[1] part[2] part[3]) + 4)
	$0 = part[1] " " uid(part[2]) " " gid(part[3]) " " path
}
{ print >(out "/" what) }

END {
	for (number in users) if (users[number] != number) differ = 1
	for (number in groups) if (groups[number] != number) differ = 1
	if (differ && !refused) print >(out "/differ")
}
