# Chooses firmware: which of the files that there are the kernel's modules ask for. Run as
#   awk -v out=FOLDER -f firmware.awk what=there LIST what=own OWN what=asked NAMES what=wanted PATTERNS
# LIST has a line for each file, and for each link its target after a tab; OWN the names of files that the
# overlay has; NAMES what modules say, and PATTERNS what image.toml asks for. Both may have * ? and [],
# which match no slash.
# FOLDER/chosen gets the paths, links and what they lead to; FOLDER/missing what modules, FOLDER/unknown
# what image.toml asks for in vain.
BEGIN { FS = "\t" }

# What is there, under its name without the ending of a compressed file: the kernel tries all three.
what == "there" {
	there[$1] = 1
	if (NF > 1) link[$1] = $2
	add($1, $1)
	next
}
what == "own" { add($1, ""); next }
what == "asked" { if (!ask($0)) missing[$0] = 1; next }
what == "wanted" { if (!ask($0)) unknown[$0] = 1 }

function add(path, file,    stem) {
	stem = path
	sub(/\.(zst|xz)$/, "", stem)
	# Not in one expression: busybox makes files[stem] before it asks whether that is there.
	if (stem in files) files[stem] = files[stem] "\n" file
	else files[stem] = file
}

# Chooses what has this name; returns how much.
function ask(name,    found, stem, start, expression) {
	name = through_links(name)
	if (name ~ /[*?[]/) {
		expression = expression_of(name)
		start = name
		sub(/[*?[\\].*/, "", start)
		# Most are told apart by how they begin: to compile an expression takes busybox long.
		for (stem in files)
			if ((start == "" || index(stem, start) == 1) && stem ~ expression) found += choose_all(stem)
	} else {
		found = choose_all(name)
		if (!found) found = choose_below(name)
	}
	if (!found) found = choose_older(name)
	# With the ending that it has as a file.
	if (!found && sub(/\.(zst|xz)$/, "", name)) return ask(name)
	return found
}

function choose_all(stem,    some, count, number, found) {
	stem = through_links(stem)
	if (!(stem in files)) return 0
	count = split(files[stem], some, "\n")
	if (count == 0) return 1 # the overlay has it
	for (number = 1; number <= count; number++) found += some[number] == "" ? 1 : choose(some[number])
	return found
}

# A folder, which a link may lead to.
function choose_below(folder,    path, found) {
	folder = through_links(folder)
	for (path in there) if (index(path, folder "/") == 1) found += choose(path)
	return found
}

# Modules name the newest version of a format (iwlwifi-ty-a0-gf-a0-89.ucode), and take older ones.
function choose_older(name,    start, digits, stem, rest, some, count, number, found) {
	if (!match(name, /-[0-9]+\.ucode$/)) return 0
	start = substr(name, 1, RSTART)
	digits = substr(name, RSTART + 1) + 0
	for (stem in files) if (index(stem, start) == 1) {
		rest = substr(stem, length(start) + 1)
		if (rest ~ /^[0-9]+\.ucode$/ && rest + 0 <= digits) some[rest + 0] = stem
	}
	for (number = digits; number >= 0 && digits - number < 1000 && !found; number--)
		if (number in some) found = choose_all(some[number])
	return found
}

# A file, or a link and what it leads to; nothing where that leads nowhere.
function choose(path,    target, found) {
	if (path in chosen) return 1
	if (path in doing) return 0 # links that lead round in a circle
	if (!(path in link)) return chosen[path] = 1
	doing[path] = 1
	target = resolved(path)
	if (target != "") {
		target = through_links(target)
		if (target in there) found = choose(target)
		else found = choose_below(target)
	}
	delete doing[path]
	if (found) chosen[path] = 1
	return found > 0
}

# A path whose folders are no links; the links on the way are chosen.
function through_links(path, depth,    parts, count, number, place, target) {
	if (depth > 40) return path
	count = split(path, parts, "/")
	for (number = 1; number < count; number++) {
		place = (number > 1 ? place "/" : "") parts[number]
		if (place in link) {
			target = resolved(place)
			if (target == "") return path
			chosen[place] = 1
			return through_links(target substr(path, length(place) + 1), depth + 1)
		}
	}
	return path
}

# Where a link leads to, from lib/firmware; nothing where that is elsewhere.
function resolved(path,    target, folder, parts, count, number, kept, result) {
	target = link[path]
	folder = path
	sub(/[^\/]*$/, "", folder)
	target = target ~ /^\// ? target : "lib/firmware/" folder target
	count = split(target, parts, "/")
	kept = 0
	for (number = 1; number <= count; number++) {
		if (parts[number] == "..") kept -= (kept > 0)
		else if (parts[number] != "" && parts[number] != ".") parts[++kept] = parts[number]
	}
	for (number = 1; number <= kept; number++) result = result (number > 1 ? "/" : "") parts[number]
	return sub(/^(usr\/)?lib\/firmware\//, "", result) ? result : ""
}

# A pattern of the shell as a regular expression.
function expression_of(pattern,    at, letter, result, end) {
	for (at = 1; at <= length(pattern); at++) {
		letter = substr(pattern, at, 1)
		end = letter == "[" ? end_of_class(pattern, at) : 0
		if (end) {
			letter = substr(pattern, at + 1, end - at - 1)
			gsub(/\\/, "\\\\", letter)
			sub(/^!/, "^", letter)
			if (gsub(/\[/, "", letter)) letter = letter "[" # elsewhere it may begin a name of a class
			result = result "[" letter "]"
			at = end
		} else if (letter == "*") result = result "[^/]*"
		else if (letter == "?") result = result "[^/]"
		else result = result (letter ~ /[].()*+?{}|^$\\[]/ ? "\\" letter : letter)
	}
	return "^" result "$"
}

# Where the class ends that begins here; 0 where it has no end, and so is none.
function end_of_class(pattern, at,    first, end) {
	first = at + 1
	if (substr(pattern, first, 1) ~ /[!^]/) first++
	end = index(substr(pattern, first + 1), "]") # a ] at its very beginning is one of its letters
	return end ? first + end : 0
}

END {
	for (path in chosen) print "lib/firmware/" path >(out "/chosen")
	for (name in missing) print name >(out "/missing")
	for (name in unknown) print name >(out "/unknown")
}
