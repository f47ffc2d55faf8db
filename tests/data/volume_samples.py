"""Tiny valid files of every format, written by hand or with the library that is usual for it.

A function of WRITERS writes VOXELS into a folder and returns (the path to read, the file with the header, the
number of bytes at its beginning that are header).
"""

import struct

import imagecodecs
import numpy as np
import tifffile

VOXELS = (np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5) * 771 + 5).astype(np.uint16)
BIG = VOXELS.astype(">u2").tobytes()
LITTLE = VOXELS.astype("<u2").tobytes()


def with_header(path, header, data):
    path.write_bytes(header.encode() + data)
    return path, path, len(header.encode())


def beside_header(path, header, data, name):
    (path.parent / name).write_bytes(data)
    return with_header(path, header, b"")


MHA = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {msb}
CompressedData = {compressed}
TransformMatrix = 1 0 0 0 1 0 0 0 1
ElementSpacing = 0.002 0.003 0.004
DimSize = 5 4 3
ElementType = MET_USHORT
ElementDataFile = {file}
"""


def mha(folder):
    return with_header(folder / "a.mha", MHA.format(msb="False", compressed="False", file="LOCAL"), LITTLE)


def mhd(folder):
    header = MHA.format(msb="True", compressed="False", file="a.raw")
    return beside_header(folder / "a.mhd", header, BIG, "a.raw")


def zlib_mha(folder):
    header = MHA.format(msb="False", compressed="True", file="LOCAL")
    return with_header(folder / "a.mha", header, imagecodecs.zlib_encode(LITTLE))


def zlib_mhd(folder):
    data = imagecodecs.zlib_encode(LITTLE)
    header = MHA.format(msb="False", compressed="True", file="a.zraw")
    header = header.replace("TransformMatrix", f"CompressedDataSize = {len(data)}\nTransformMatrix")
    return beside_header(folder / "a.mhd", header, data, "a.zraw")


NRRD = """NRRD0004
# written by hand
type: uint16
dimension: 3
space dimension: 3
sizes: 5 4 3
space directions: (0.002,0,0) (0,0.003,0) (0,0,0.004)
space units: "mm" "mm" "mm"
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
"""


def nrrd(folder):
    return with_header(folder / "a.nrrd", NRRD.format(endian="big", encoding="raw") + "\n", BIG)


def gzip_nrrd(folder):
    header = NRRD.format(endian="little", encoding="gzip") + "\n"
    return with_header(folder / "a.nrrd", header, imagecodecs.gzip_encode(LITTLE))


def nhdr(folder):
    header = NRRD.format(endian="little", encoding="raw") + "data file: a.raw\n"
    return beside_header(folder / "a.nhdr", header, LITTLE, "a.raw")


AM = """# AmiraMesh BINARY-LITTLE-ENDIAN 2.1

define Lattice 5 4 3

Parameters {
    Units {
        Coordinates "mm"
    }
    Content "5x4x3 ushort, uniform coordinates",
    BoundingBox 0 0.008 1 1.009 2 2.008,
    CoordType "uniform"
}

Lattice { ushort Data } @1

# Data section follows
@1
"""


def am(folder):
    return with_header(folder / "a.am", AM, LITTLE + b"\n")


VGI = """{volume1}
[representation]
size = 5 4 3
datatype = unsigned integer
datarange = 0 65535
bitsperelement = 16
[file1]
RegionOfInterestStart = 0 0 0
RegionOfInterestEnd = 4 3 2
FileFormat = raw
Size = 5 4 3
Name = a.vol
Datatype = unsigned integer
datarange = -1 65536
BitsPerElement = 16
{volumeprimitive12}
[geometry]
resolution = 0.002 0.003 0.004
unit = mm
"""


def vgi(folder):
    return beside_header(folder / "a.vgi", VGI, LITTLE, "a.vol")


VOL_INFO = """! PyHST_SLAVE VOLUME INFO FILE
NUM_X = 5
NUM_Y = 4
NUM_Z = 3
voxelSize = 2.500000
BYTEORDER = HIGHBYTEFIRST
"""


def vol_info(folder):
    return beside_header(folder / "a.vol.info", VOL_INFO, BIG, "a.vol")


def bmp_of(page, bits=8, palette=None, top_down=False):
    """Return a BMP of a uint8 page [H, W], or, for 24 bits, [H, W, 3]."""
    height, width = page.shape[:2]
    palette = b"".join(bytes((v, v, v, 0)) for v in range(256)) if palette is None else palette
    palette = palette if bits == 8 else b""
    begin, stride = 54 + len(palette), -(-width * bits // 32) * 4
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : width * bits // 8] = page.reshape(height, -1)
    head = struct.pack("<2sIHHI", b"BM", begin + rows.size, 0, 0, begin)
    head += struct.pack("<IiiHHI", 40, width, -height if top_down else height, 1, bits, 0)
    head += struct.pack("<IiiII", rows.size, 2835, 2835, len(palette) // 4, 0)
    return head + palette + (rows if top_down else rows[::-1]).tobytes()


def bmp(folder):
    (folder / "a.bmp").write_bytes(bmp_of(VOXELS[0].astype(np.uint8)))
    return folder / "a.bmp", folder / "a.bmp", 54


def rgb_bmp(folder):
    (folder / "a.bmp").write_bytes(bmp_of(np.stack([VOXELS[0].astype(np.uint8)] * 3, -1), 24))
    return folder / "a.bmp", folder / "a.bmp", 54


def slices(folder):
    for number, page in enumerate(VOXELS):
        tifffile.imwrite(folder / f"slice_{number}.tif", page)
    return folder, folder / "slice_1.tif", 300


BRUKER_LOG = """[Acquisition]
Image Pixel Size (um)=5.000000
[Reconstruction]
Pixel Size (um)=2.500000
Section to Section Step=2
"""


def logged_slices(folder):
    for number, page in enumerate(VOXELS):
        (folder / f"slice_{number}.png").write_bytes(imagecodecs.png_encode(page))
    for name in ("a.log", "b.log"):  # which have to agree
        (folder / name).write_text(BRUKER_LOG)
    return folder, folder / "a.log", len(BRUKER_LOG)


def npy(folder):
    np.save(folder / "a.npy", VOXELS)
    return folder / "a.npy", folder / "a.npy", 128


def png(folder):
    (folder / "a.png").write_bytes(imagecodecs.png_encode(VOXELS[0]))
    return folder / "a.png", folder / "a.png", (folder / "a.png").stat().st_size


def tiff(folder):
    tifffile.imwrite(folder / "a.tif", VOXELS, imagej=True, metadata={"axes": "ZYX", "unit": "um"})
    return folder / "a.tif", folder / "a.tif", 500


def lzw_tiff(folder):
    tifffile.imwrite(folder / "a.tif", VOXELS, compression="lzw", metadata=None, photometric="minisblack")
    return folder / "a.tif", folder / "a.tif", (folder / "a.tif").stat().st_size


def ome_tiff(folder):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 2, "PhysicalSizeY": 3, "PhysicalSizeZ": 4}
    tifffile.imwrite(folder / "a.ome.tif", VOXELS, metadata=metadata, bigtiff=True)
    return folder / "a.ome.tif", folder / "a.ome.tif", (folder / "a.ome.tif").stat().st_size


WRITERS = {
    "mha": mha,
    "mhd": mhd,
    "zlib mha": zlib_mha,
    "zlib mhd": zlib_mhd,
    "nrrd": nrrd,
    "gzip nrrd": gzip_nrrd,
    "nhdr": nhdr,
    "am": am,
    "vgi": vgi,
    "vol.info": vol_info,
    "bmp": bmp,
    "rgb bmp": rgb_bmp,
    "slices": slices,
    "logged slices": logged_slices,
    "npy": npy,
    "png": png,
    "tiff": tiff,
    "lzw tiff": lzw_tiff,
    "ome tiff": ome_tiff,
}
