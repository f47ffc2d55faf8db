"""What the tags of a TIFF say beside its pixels: voxel size, orientation, and what results keep."""

import html
import re
from fractions import Fraction

from srgan_dist.data.formats.header import micrometres, sizes_um
from srgan_dist.data.volume import CENTIMETRE, INCH
from srgan_dist.utils.json_text import load_json


def orientation(page):
    """Return the TIFF orientation of a page, 1 to 8; 1 (as stored) where it is missing or invalid."""
    value = _tag(page, "Orientation", 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _tag(page, name, default=None):
    return page.tags[name].value if name in page.tags else default


def _rational(value):
    """Return a resolution as (numerator, denominator), None where it is not a finite positive number."""
    try:
        ratio = Fraction(*value) if isinstance(value, tuple) else Fraction(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    ratio = ratio.limit_denominator(2**32 - 1)  # a float, as some programs write, may need more
    return ratio.as_integer_ratio() if ratio > 0 else None


def voxel_sizes_um(page):
    """Return the voxel sizes (z, y, x) that a description gives with a unit of length, None where none does.

    ImageJ and tifffile's JSON give `unit` and `spacing` of slices; the resolution tags then count pixels per
    unit. OME-XML, and JSON, give PhysicalSizeX, Y and Z. The resolution of other files (72 dpi) is rarely
    true.
    """
    fields = _description_fields(str(page.description))
    if "PhysicalSizeX" in fields:
        return _physical_sizes_um(fields)
    per_unit = (_rational(_tag(page, name)) for name in ("YResolution", "XResolution"))
    sizes = [_number(fields.get("spacing")), *(pair and pair[1] / pair[0] for pair in per_unit)]
    return sizes_um(sizes, micrometres(fields.get("unit", "")))


def _description_fields(text):
    """Return the fields of a description by ImageJ, tifffile (JSON) or OME (attributes of its pixels)."""
    if text.startswith("{"):
        try:
            return load_json(text)
        except (ValueError, RecursionError):
            return {}
    # Not by a parser of XML: descriptions come from outside, and entities can expand without bounds.
    if pixels := re.search(r"<(?:\w+:)?Pixels\b([^<>]*)>", text):
        attributes = re.findall(r'\b(\w+)\s*=\s*"([^"]*)"', pixels[1])
        return {name: html.unescape(value) for name, value in attributes}
    return dict(re.findall(r"^(unit|spacing)=(.*)", text, re.MULTILINE))


def _physical_sizes_um(fields):
    sizes = []
    for axis in "ZYX":
        size = _number(fields.get(f"PhysicalSize{axis}"))
        unit = micrometres(fields.get(f"PhysicalSize{axis}Unit", "um"))  # OME's default
        sizes.append(size and unit and size * unit)
    return sizes_um(sizes)


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def carried_tags(page):
    """Return the tags that are true of a result too, in the terms of `write_pages`."""
    tags = {}
    resolution = tuple(_rational(_tag(page, name)) for name in ("XResolution", "YResolution"))
    if all(resolution):
        unit = _tag(page, "ResolutionUnit", INCH)
        tags["resolution"] = resolution
        tags["resolutionunit"] = int(unit) if unit in (1, INCH, CENTIMETRE) else 1
    if description := _carried_description(page.description):
        tags["description"] = description
    if orientation(page) != 1:
        tags["orientation"] = orientation(page)
    return tags


def _carried_description(text):
    """Return the part of a description that is also true of another size and storage."""
    if text.lstrip("\ufeff \r\n\t").startswith(("{", "<?xml", "<OME")):  # sizes, of tifffile and OME
        return ""
    if text.startswith("ImageJ="):
        # With images=5 ImageJ ignores all headers but the first and reads the slices back to back after it.
        text = re.sub(r"^(images|slices|frames|channels|hyperstack)=.*\n?", "", text, flags=re.MULTILINE)
    return text
