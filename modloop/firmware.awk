# Chooses firmware: which of the files that there are the kernel's modules ask for. Run as
#   awk -v out=FOLDER -f firmware.awk what=there LIST what=asked NAMES what=wanted PATTERNS
# LIST has a line for each file, and for each link its target after a tab; NAMES what modules say, and
# PATTERNS what image.toml asks for. Both may have * ? and [], which match no slash.
# FOLDER/chosen gets the paths, links and what they lead to; FOLDER/missing what modules, FOLDER/unknown
# what image.toml asks for in vain.
BEGIN { FS = "\t" }

# What is there, under its name without the ending of a compressed file: the kernel tries all three.
what == "there" {
	there[$1] = 1
	if (NF > 1) link[$1] = $2
	stem = $1
	sub(/\.(zst|xz)$/, "", stem)
	# Not in one expression: busybox makes files[stem] before it asks whether that is there.
	if (stem in files) files[stem] = files[stem] "\n" $1
	else files[stem] = $1
	next
}
what == "asked" { ask($0); next }
what == "wanted" && !ask($0) { unknown[$0] = 1; delete missing[$0] }

# Chooses what has this name; returns how much.
function ask(name,    found, stem, start, expression) {
	name = through_links(name)
	if (name ~ /[*?[]/) {
		expression = expression_of(name)
		start = name
		sub(/[*?[].*/, "", start)
		# Most are told apart by how they begin: to compile an expression takes busybox long.
		for (stem in files) if (index(stem, start) == 1 && stem ~ expression) found += choose_all(stem)
	} else {
		found = choose_all(name) || choose_below(name)
	}
	if (!found) found = choose_older(name)
	if (!found) missing[name] = 1
	return found
}

function choose_all(stem,    some, count, number) {
	stem = through_links(stem)
	if (!(stem in files)) return 0
	count = split(files[stem], some, "\n")
	for (number = 1; number <= count; number++) choose(some[number])
	return count
}

# A folder, which a link may lead to.
function choose_below(folder,    path, found) {
	folder = through_links(folder)
	for (path in there) if (index(path, folder "/") == 1) found += choose(path)
	return found
}

# Modules name the newest version of a format (iwlwifi-ty-a0-gf-a0-89.ucode), and take older ones.
function choose_older(name,    start, digits, stem, rest, best) {
	if (!match(name, /-[0-9]+\.ucode$/)) return 0
	start = substr(name, 1, RSTART)
	digits = substr(name, RSTART + 1) + 0
	best = -1
	for (stem in files) if (index(stem, start) == 1) {
		rest = substr(stem, length(start) + 1)
		if (rest ~ /^[0-9]+\.ucode$/ && rest + 0 <= digits && rest + 0 > best) best = rest + 0
	}
	return best < 0 ? 0 : choose_all(start best ".ucode")
}

# A file, or a link and what it leads to.
function choose(path,    target) {
	if (path in chosen) return 1
	chosen[path] = 1
	if (path in link) {
		target = resolved(path)
		if (target in there) choose(target)
		else choose_below(target)
	}
	return 1
}

# A path whose folders are no links; the links on the way are chosen.
function through_links(path, depth,    parts, count, number, place) {
	if (depth > 40) return path
	count = split(path, parts, "/")
	for (number = 1; number < count; number++) {
		place = (number > 1 ? place "/" : "") parts[number]
		if (place in link) {
			chosen[place] = 1
			return through_links(resolved(place) substr(path, length(place) + 1), depth + 1)
		}
	}
	return path
}

# Where a link leads to, from lib/firmware.
function resolved(path,    target, folder, parts, count, number, kept, result) {
	target = link[path]
	folder = path
	sub(/[^\/]*$/, "", folder)
	if (sub(/^\/lib\/firmware\//, "", target)) folder = ""
	count = split(folder target, parts, "/")
	kept = 0
	for (number = 1; number <= count; number++) {
		if (parts[number] == "..") kept -= (kept > 0)
		else if (parts[number] != "" && parts[number] != ".") parts[++kept] = parts[number]
	}
	for (number = 1; number <= kept; number++) result = result (number > 1 ? "/" : "") parts[number]
	return result
}

# A pattern of the shell as a regular expression.
function expression_of(pattern,    at, letter, result, inside) {
	for (at = 1; at <= length(pattern); at++) {
		letter = substr(pattern, at, 1)
		if (inside) {
			if (letter == "]") inside = 0
			else if (letter == "!" && substr(pattern, at - 1, 1) == "[") letter = "^"
			result = result letter
		} else if (letter == "[") {
			inside = 1
			result = result letter
		} else if (letter == "*") result = result "[^/]*"
		else if (letter == "?") result = result "[^/]"
		else result = result (letter ~ /[A-Za-z0-9_\/-]/ ? letter : "[" letter "]")
	}
	return "^" result "$"
}

END {
	for (path in chosen) print "lib/firmware/" path >(out "/chosen")
	for (name in missing) print name >(out "/missing")
	for (name in unknown) print name >(out "/unknown")
}
