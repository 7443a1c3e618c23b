#!/usr/bin/env python3
"""Reads dscow images, written from docs/image-format.md alone, to show that the document is enough.

dscow_read.py read IMAGE OUTPUT   writes the content of the disk to a sparse file
dscow_read.py judge IMAGE...      prints for each image "ok", or "refused: " and the reason

It takes no locks, and is slow.
"""

import hashlib
import os
import stat
import struct
import sys

MAGIC = b"DSCOW\r\n\x1a"
TIB = 1 << 40
COUNTER_MAX = 1 << 62
CHAIN_MAX = 64


class Refused(Exception):
    pass


def require(condition, reason):
    if not condition:
        raise Refused(reason)


def crc_table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


CRC_TABLE = list(crc_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Header:
    """The fields of a slot that is whole, and the rules for them."""

    def __init__(self, slot):
        def number(offset, size):
            return int.from_bytes(slot[offset : offset + size], "little")

        require(number(8, 4) == 2, "version")
        self.sequence = number(16, 8)
        require(number(24, 8) == 0, "incompatible feature")
        self.uuid = slot[48:64]
        self.virtual_size = number(64, 8)
        shift = number(72, 4)
        self.state = number(76, 4)
        self.bitmap_offset = number(80, 8)
        self.bitmap_len = number(88, 8)
        self.data_offset = number(96, 8)
        self.generation = number(104, 8)
        self.bitmap_checksum = number(120, 4)
        self.parent_format = number(124, 4)
        self.parent_uuid = slot[128:144]
        self.parent_size = number(144, 8)
        self.parent_generation = number(152, 8)
        self.parent_fingerprint = slot[160:192]
        self.parent_mtime = struct.unpack_from("<qI", slot, 192)
        self.parent_flags = number(204, 4)
        path_len = number(224, 4)
        self.parent_limit = number(232, 8)

        require(self.sequence <= COUNTER_MAX, "sequence")
        require(self.generation <= COUNTER_MAX, "generation")
        require(512 <= self.virtual_size <= 64 * TIB, "virtual size")
        require(self.virtual_size % 512 == 0, "virtual size")
        require(12 <= shift <= 21, "block shift")
        self.block_size = 1 << shift
        self.block_count = -(-self.virtual_size // self.block_size)
        require(self.state in (0, 1), "state")
        require(8192 <= self.bitmap_offset <= 64 * TIB, "bitmap offset")
        require(self.bitmap_offset % 4096 == 0, "bitmap offset")
        self.bitmap_used = -(-self.block_count // 8)
        require(self.bitmap_used <= self.bitmap_len <= 2 << 30, "bitmap length")
        require(self.bitmap_len % 4096 == 0, "bitmap length")
        require(self.data_offset >= self.bitmap_offset + self.bitmap_len, "data offset")
        require(self.data_offset <= 128 * TIB, "data offset")
        require(self.data_offset % (1 << 20) == 0, "data offset")
        require(self.data_offset % self.block_size == 0, "data offset")
        require(self.parent_limit % 512 == 0, "parent limit")
        require(self.parent_limit <= self.virtual_size, "parent limit")
        require(self.parent_format in (0, 1, 2), "parent format")
        if self.parent_format != 0:
            require(1 <= path_len <= 3072, "parent path")
            self.parent_path = slot[512 : 512 + path_len]
            require(b"\0" not in self.parent_path, "parent path")
            self.commit_under_way = self.parent_flags & 2 != 0


def is_whole(slot):
    if slot[:8] != MAGIC:
        return False
    return crc32c(slot[:12] + bytes(4) + slot[16:]) == int.from_bytes(slot[12:16], "little")


def header_in_force(file):
    a, b = file.pread(0, 4096), file.pread(4096, 4096)
    require(len(b) == 4096, "too short")
    whole = [slot for slot in (a, b) if is_whole(slot)]
    require(whole or MAGIC in (a[:8], b[:8]), "not an image")
    require(whole, "header damaged")
    # The first of them if the sequences are equal.
    return Header(max(whole, key=lambda slot: int.from_bytes(slot[16:24], "little")))


class File:
    def __init__(self, path):
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise Refused(f"{os.fsdecode(path)}: {error.strerror}") from error
        status = os.fstat(self.descriptor)
        self.is_regular = stat.S_ISREG(status.st_mode)
        is_file = self.is_regular or stat.S_ISBLK(status.st_mode)
        require(is_file, f"{os.fsdecode(path)}: no file and no block device")
        self.size = os.lseek(self.descriptor, 0, os.SEEK_END)
        device = (status.st_dev, status.st_ino)
        self.identity = device if self.is_regular else status.st_rdev
        self.mtime = divmod(status.st_mtime_ns, 1_000_000_000)

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def pread(self, offset, size):
        return os.pread(self.descriptor, size, offset)


class Raw:
    def __init__(self, path, recorded, seen):
        self.file = File(path)
        self.size = self.file.size
        require(self.file.identity not in seen, "its own base")
        if recorded.commit_under_way:
            require(self.size >= recorded.parent_size, "base: size")
            return
        require(self.size == recorded.parent_size, "base: size")
        if self.file.is_regular and recorded.parent_flags & 1:
            require(self.file.mtime == recorded.parent_mtime, "base: modified")
        require(self.fingerprint() == recorded.parent_fingerprint, "base: fingerprint")

    def fingerprint(self):
        digest = hashlib.sha256(self.size.to_bytes(8, "little"))
        head = min(self.size, 65536)
        digest.update(self.file.pread(0, head))
        pages = -(-(self.size - head) // 4096)
        if pages > 0:
            count = min(pages, 64)
            for page in [i * pages // count for i in range(count)] + [pages - 1]:
                digest.update(self.file.pread(head + page * 4096, 4096))
        return digest.digest()

    def read(self, offset, size):
        return self.file.pread(offset, size).ljust(size, b"\0")


class Image:
    def __init__(self, path, recorded=None, seen=()):
        self.file = File(path)
        require(self.file.identity not in seen, "its own base")
        seen = (*seen, self.file.identity)
        self.header = header = header_in_force(self.file)
        self.size = header.virtual_size
        if recorded is not None:
            self.compare(recorded)
        needed = header.data_offset + header.block_count * header.block_size
        require(self.file.size >= needed, "truncated")
        self.bitmap = self.file.pread(header.bitmap_offset, header.bitmap_used)
        past_end = header.block_count % 8
        require(past_end == 0 or self.bitmap[-1] >> past_end == 0, "bit past the end")
        if header.state == 0:
            require(crc32c(self.bitmap) == header.bitmap_checksum, "bitmap damaged")
        self.parent = None
        if header.parent_format != 0:
            require(len(seen) < CHAIN_MAX, "chain too deep")
            path = os.path.join(os.path.dirname(path), header.parent_path)
            kind = Raw if header.parent_format == 1 else Image
            self.parent = kind(path, header, seen)

    def compare(self, recorded):
        require(self.header.uuid == recorded.parent_uuid, "base: uuid")
        generation, size = self.header.generation, self.size
        if recorded.commit_under_way:
            require(generation >= recorded.parent_generation, "base: generation")
            require(size >= recorded.parent_size, "base: size")
        else:
            require(generation == recorded.parent_generation, "base: generation")
            require(size == recorded.parent_size, "base: size")

    def read(self, offset, size):
        """Bytes of the disk, zeros past its end."""
        inside = max(0, min(size, self.size - offset))
        parts = []
        end = offset + inside
        while offset < end:
            block = offset // self.header.block_size
            stop = min(end, (block + 1) * self.header.block_size)
            parts.append(self.read_in_block(block, offset, stop - offset))
            offset = stop
        return b"".join(parts).ljust(size, b"\0")

    def read_in_block(self, block, offset, size):
        if self.bitmap[block // 8] >> block % 8 & 1:
            return self.file.pread(self.header.data_offset + offset, size)
        if self.parent is None:
            return bytes(size)
        shown = size
        if self.header.parent_limit != 0:
            shown = max(0, min(size, self.header.parent_limit - offset))
        return self.parent.read(offset, shown).ljust(size, b"\0")


def read(path, output):
    image = Image(os.fsencode(path))
    with open(output, "wb") as out:
        for offset in range(0, image.size, 1 << 20):
            piece = image.read(offset, min(1 << 20, image.size - offset))
            if any(piece):
                out.seek(offset)
                out.write(piece)
        out.truncate(image.size)


def verdict(path):
    try:
        Image(os.fsencode(path))
    except Refused as reason:
        return f"refused: {reason}"
    return "ok"


def main():
    command, *arguments = sys.argv[1:]
    if command == "judge":
        for path in arguments:
            print(verdict(path), flush=True)
    elif command == "read":
        try:
            read(*arguments)
        except Refused as reason:
            sys.exit(f"{arguments[0]}: {reason}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
