#!/bin/bash
# vmlinux.sh BZIMAGE OUT: takes the ELF kernel out of a bzImage. xl's domain builder then has nothing to decompress, which
# saves seconds at each start of a guest under emulation. The compressed payload's place is in the boot protocol header
# (payload_offset at 0x248, payload_length at 0x24c, relative to the protected-mode code after setup_sects sectors).
set -euo pipefail
image=$1 out=$2

field() { od -An -t "u$2" -j "$1" -N "$2" "$image" | tr -d ' '; }
start=$((($(field $((0x1f1)) 1) + 1) * 512 + $(field $((0x248)) 4)))
# The last 4 bytes of the payload are the unpacked size, not part of the stream.
length=$(($(field $((0x24c)) 4) - 4))
magic=$(od -An -t x1 -j "$start" -N 4 "$image" | tr -d ' ')
case $magic in
    28b52ffd) unpack=(zstd -dc) ;;
    fd377a58) unpack=(xz -dc --single-stream) ;;
    1f8b*) unpack=(gzip -dc) ;;
    *) echo "kernel payload with unknown compression: $magic" >&2; exit 1 ;;
esac
dd if="$image" iflag=skip_bytes,count_bytes skip="$start" count="$length" bs=1M status=none | "${unpack[@]}" > "$out"
head -c 4 "$out" | grep -q ELF
