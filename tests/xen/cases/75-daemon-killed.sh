# The daemon is killed again and again under a guest's load: the guest goes on
# shellcheck shell=bash

create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_multiuser vm
guest_id=$(domid vm)
path=$(backend_path vm 51712)
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --minimal || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'

watch_state "$path/state"
is_another() { pid=$(cowbackd_pid) && [ -n "$pid" ] && [ "$pid" != 0 ] && [ "$pid" != "$1" ]; }
for round in $(seq 20); do
    before=$(cowbackd_pid)
    kill -9 "$before"
    eventually 60 "another daemon after kill $round" is_another "$before"
    # Each fifth is killed while it takes over, the others when the guest has been served by them.
    [ $((round % 5)) -eq 0 ] || guest_run vm "echo $round >> /srv/rounds && sync"
done
assert_eq 4 "$(node "$path/state")" "backend state after 20 kills"

step "the load ends without an error"
end_load vm
assert_eq "16" "$(guest_run vm 'grep -c . /srv/rounds')" "lines that the guest wrote after the kills"
assert_eq "$guest_id" "$(domid vm)" "domain of the guest"

step "xenstore never showed the guest another state"
kill "$watcher"
assert_eq 1 "$(wc -l < "$state_dir/state-events")" "writes to $path/state"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
left=$(ls /run/cowback/disks)
assert_eq "" "$left" "run states that are left"
