"""Two folders, of HR and of LR images with the same names, as two scans of the same rocks give them.

HR/sandstone/plug.tif   and   LR/sandstone/plug.npy, plugx4.npy or plug_LR.npy (formats may differ)
"""

import re
from dataclasses import replace

from srgan_dist.packing.source import grouped, header_or_problem, only_images
from srgan_dist.utils.scales import SCALES

HR_END = re.compile(r"(?i)[ _.-]?hr$")  # of names of images; it says no more than their side
LR_END = re.compile(rf"(?i)[ _.-]?(x({'|'.join(map(str, SCALES))})|lr)$")


def with_partners(sources, sides, files, scale, fits, scan):
    """Return the sources of the folder sides.hr with their LR files; no partner, or two, is a fault.

    sides: Sides, with roots that are volumes themselves a pair whatever their names. files: (all below
    sides.hr, all below sides.lr). fits(hr, lr, problems): whether both are a pair.
    """
    hr_root, lr_root, hr_files, lr_files = sides.hr, sides.lr, *files
    partners, problems = {}, {}
    for path in lr_files if lr_files == [lr_root] else only_images(lr_files, lr_root, scan):
        other = partners.setdefault(_name(path, lr_root, scan), path)
        if other is not path:
            scan.faults.append(f"{path}: has the same name as {other}; remove one of them")
    pairs = []
    for source in sources:
        name = _name(source.hr.path, hr_root, scan)
        own = lr_name(name, partners, scale)
        if own is None:
            scan.faults.append(
                f"{source.hr.path}: has no LR partner; expected {lr_root / name}.* or {name}x{scale}.*"
            )
        elif (lr := header_or_problem(partners.pop(own), scan, problems)) and fits(source.hr, lr, problems):
            pairs.append(replace(source, lr=lr))
    of_damaged = {lr_name(_name(path, hr_root, scan), partners, scale) for path in hr_files}
    scan.faults.extend(
        f"{path}: has no HR partner in {hr_root}" for name, path in partners.items() if name not in of_damaged
    )
    scan.faults.extend(grouped(problems))
    return pairs


def lr_name(name, present, scale):
    """Return the name of the LR image of an HR image, or None if none is present: its own, or with x4 or LR
    behind it, e.g. a_x4 or a_LR of a or a_HR.
    """
    ends = [gap + end for end in (f"x{scale}", f"X{scale}", "LR", "lr") for gap in ("", *"_-. ")]
    names = (own + end for own in (name, HR_END.sub("", name)) for end in ("", *ends))
    return next((own for own in names if own in present), None)


def _name(path, root, scan):
    """Return the path below `root` without suffix; that of a root that is a volume itself is "."."""
    name = path.relative_to(root)
    return str(name if path == root or path in scan.series else name.with_suffix(""))
