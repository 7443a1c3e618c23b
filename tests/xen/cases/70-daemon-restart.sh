# The daemon is restarted under a guest's load: the guest goes on
# shellcheck shell=bash

create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
guest_id=$(domid vm)
path=$(backend_path vm 51712)
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --minimal || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'

# Every value that the backend's state takes during the restarts is recorded: the guest's disk must not be seen to close.
watch_state "$path/state"
for round in 1 2 3; do
    step "restart $round of cowbackd"
    before=$(cowbackd_pid)
    systemctl restart cowbackd.service
    after=$(cowbackd_pid)
    [ "$before" != "$after" ] || fail "cowbackd is still process $before"
    assert_eq 4 "$(node "$path/state")" "backend state after restart $round"
    guest_run vm "echo $round >> /srv/rounds && sync"
done

step "the load ends without an error"
end_load vm
assert_eq "1 2 3" "$(guest_run vm 'paste -sd " " /srv/rounds')" "what the guest wrote after each restart"
assert_eq "$guest_id" "$(domid vm)" "domain of the guest"

step "xenstore never showed the guest another state"
kill "$watcher"
# The first event is the watch's own; each further one is somebody writing the node.
assert_eq 1 "$(wc -l < "$state_dir/state-events")" "writes to $path/state"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
