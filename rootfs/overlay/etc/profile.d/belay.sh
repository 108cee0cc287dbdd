# Says at login why a release was rejected, as long as that is the last that happened.
[ ! -s /run/belay/notice ] || cat /run/belay/notice
