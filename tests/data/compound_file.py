"""A writer of OLE compound files, which olefile only reads: [MS-CFB], version 3."""

import struct

import numpy as np

FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
STORAGE, STREAM, ROOT = 1, 2, 5


def compound_file(streams):
    """Return the bytes of a file with {"Folder/Name": bytes}."""
    sectors, fat = [], []

    def store(data, unit=512):
        """Append a chain of sectors; returns the first."""
        count = -(-len(data) // unit)
        if not count:
            return END
        first = len(fat)
        fat.extend([*range(first + 1, first + count), END])
        sectors.append(data.ljust(count * unit, b"\0"))
        return first

    # Streams below 4096 bytes lie in sectors of 64 bytes inside of the root's stream.
    small, small_fat, starts = b"", [], {}
    for name, data in streams.items():
        if len(data) >= 4096:
            starts[name] = store(data)
        else:
            starts[name], count = len(small_fat), max(1, -(-len(data) // 64))
            small_fat.extend([*range(starts[name] + 1, starts[name] + count), END])
            small += data.ljust(count * 64, b"\0")
    small_start = store(small)
    small_fat += [FREE] * (-len(small_fat) % 128)
    small_fat_start = store(np.array(small_fat, "<u4").tobytes())

    folders = sorted({name.split("/")[0] for name in streams})
    entries = [("Root Entry", ROOT, FREE, 1, small_start, len(small))]
    inside = {folder: [name for name in streams if name.split("/")[0] == folder] for folder in folders}
    first = 1 + len(folders)
    for number, folder in enumerate(folders):
        following = number + 2 if number + 1 < len(folders) else FREE
        entries.append((folder, STORAGE, following, first, 0, 0))
        first += len(inside[folder])
    for folder in folders:
        for number, name in enumerate(inside[folder]):
            following = len(entries) + 1 if number + 1 < len(inside[folder]) else FREE
            entries.append((name.split("/")[1], STREAM, following, FREE, starts[name], len(streams[name])))
    directory = store(b"".join(_entry(*entry) for entry in entries))

    fat_start, count = len(fat), -(-(len(fat) + 1) // 128)
    assert (len(fat) + count) <= count * 128 and count <= 109
    fat.extend([FAT] * count)
    fat.extend([FREE] * (count * 128 - len(fat)))
    header = struct.pack("<8s16xHHHHH6x", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 62, 3, 0xFFFE, 9, 6)
    small_count = len(small_fat) // 128
    header += struct.pack("<9I", 0, count, directory, 0, 4096, small_fat_start, small_count, END, 0)
    table = [*range(fat_start, fat_start + count)]
    header += np.array(table + [FREE] * (109 - count), "<u4").tobytes()
    return header + b"".join(sectors) + np.array(fat, "<u4").tobytes()


def _entry(name, kind, right, child, start, size):
    encoded = name.encode("utf-16-le")
    data = encoded.ljust(64, b"\0") + struct.pack("<HBBIII", len(encoded) + 2, kind, 1, FREE, right, child)
    return data + struct.pack("<16xI16xIQ", 0, start, size)


def txm(voxels, kind, pixel_size=2.5):
    """Return the bytes of a TXM file with `voxels` [slices, H, W], whose DataType is `kind`."""
    slices, height, width = voxels.shape
    numbers = {"ImageWidth": width, "ImageHeight": height, "NoOfImages": slices, "DataType": kind}
    streams = {f"ImageInfo/{name}": struct.pack("<i", number) for name, number in numbers.items()}
    streams["ImageInfo/PixelSize"] = struct.pack("<f", pixel_size)
    for number, page in enumerate(voxels, 1):
        streams[f"ImageData{-(-number // 100)}/Image{number}"] = page.tobytes()
    return compound_file(streams)
