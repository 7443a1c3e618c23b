# shellcheck shell=bash
# Ways to wait. Sourced by lib.sh.
#
# Under emulation each started program takes a tenth of a second of the processors that the guests need, too, and `xl` twice
# that. What is waited for in xenstore is therefore not asked for again and again, but watched; and a pause starts no program.

# Nothing ever comes from here. Bash has no sleep of its own, but it can wait in vain.
exec {never}<> <(:)
pause() { read -r -t "$1" -u "$never" || true; }

# eventually SECONDS WHAT COMMAND...: waits until COMMAND succeeds, which is tried three times a second.
eventually() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "gave up waiting: $what"
        pause 0.3
    done
}

# eventually_at PATH SECONDS WHAT COMMAND...: waits until COMMAND succeeds, which is tried when something has changed at a path of
# xenstore, or domains have come (@introduceDomain) or ended (@releaseDomain).
eventually_at() {
    local deadline=$((SECONDS + $2)) what=$3 events watcher
    begin_watch "$1"
    shift 3
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "gave up waiting: $what"
        next_event
    done
    end_watch
}

# begin_watch PATH: a watch that is in place when this returns. Its $events and $watcher belong to the caller.
begin_watch() {
    exec {events}< <(exec xenstore-watch "$1")
    watcher=$!
    # A watch's first event tells nothing but that it is there.
    read -r -t 60 -u "$events" || fail "xenstore cannot be watched: $1"
}

# next_event: waits until something has changed, and no longer than five seconds: who waits looks again then, and at his deadline.
next_event() {
    # More than 128 is a time that is over, less is the end of the watching program.
    read -r -t 5 -u "$events" || [ $? -gt 128 ] || fail "xenstore-watch has ended"
}

end_watch() {
    kill "$watcher"
    exec {events}<&-
}
