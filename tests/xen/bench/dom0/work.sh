# shellcheck shell=bash
# What is asked of every contender. Sourced by story.sh.
#
# Each work has a place on the disk. What is done first at a place writes blocks that were not written before; works with the
# same place have the same seed, so the later ones do the same requests again.

works=(first-write-1 rewrite-1 read-1 first-write-fsync-1 rewrite-fsync-1 first-write-32 rewrite-32 read-32
    first-sequential-write sequential-rewrite sequential-read)
place_mib=32
# How often sequential rewrites and reads go over their place. Once takes about a quarter of a second, of which the pauses of
# others are too large a part. A first write can be done only once.
sequential_passes=4

# fio_arguments WORK VCPUS: sets $arguments for fio. With more vcpus, what is deep is done by as many jobs, each with its share.
fio_arguments() {
    local work=$1 jobs=1 place requests block=4 depth=1 rw fsync=0
    case $work in
        # What starting and ending fio takes.
        nothing) place=0 requests=1 ;;
        *-fsync-1) place=1 requests=$fsync_requests fsync=1 ;;
        *-1) place=0 requests=$shallow_requests ;;
        *-32) place=2 requests=$deep_requests depth=32 jobs=$2 ;;
        *) place=3 requests=$sequential_requests depth=4 jobs=$2 block=256 ;;
    esac
    case $work in
        sequential-*) requests=$((requests * sequential_passes)) ;;
    esac
    case $work in
        sequential-read) rw='read' ;;
        *sequential*) rw='write' ;;
        nothing | read-*) rw=randread ;;
        *) rw=randwrite ;;
    esac
    arguments="--name=work --rw=$rw --bs=${block}k --offset=$((place * place_mib))M --size=$((place_mib / jobs))M"
    arguments+=" --offset_increment=$((place_mib / jobs))M --io_size=$((requests * block / jobs))k --numjobs=$jobs"
    arguments+=" --iodepth=$((depth / jobs)) --fsync=$fsync --group_reporting --randseed=$((place + 1)) --direct=1"
    arguments+=" --invalidate=0 --ioengine=libaio --thread --minimal"
}
