"""Two folders, of HR and of LR images with the same names, as two scans of the same rocks give them.

HR/sandstone/plug.tif   and   LR/sandstone/plug.npy (formats may differ)
"""

from dataclasses import replace

from srgan_dist.packing.source import grouped, header_or_problem, only_images


def add_partners(hr_root, hr_files, lr_root, lr_files, fits, scan):
    """Give every source of a Scan of `hr_root` its LR file below `lr_root`; no partner, or two, is a fault.

    Roots that are volumes themselves are a pair whatever their names. hr_files, lr_files: all below the
    roots. fits(hr, lr, problems): whether both are a pair.
    """
    partners, problems = {}, {}
    for path in lr_files if lr_files == [lr_root] else only_images(lr_files, lr_root, scan):
        other = partners.setdefault(_name(path, lr_root, scan), path)
        if other is not path:
            scan.faults.append(f"{path}: has the same name as {other}; remove one of them")
    pairs = []
    for source in scan.sources:
        name = _name(source.hr.path, hr_root, scan)
        path = partners.pop(name, None)
        if path is None:
            scan.faults.append(f"{source.hr.path}: has no LR partner; expected {lr_root / name}.*")
        elif (lr := header_or_problem(path, scan, problems)) and fits(source.hr, lr, problems):
            pairs.append(replace(source, lr=lr))
    present = {_name(path, hr_root, scan) for path in hr_files}  # some of them may be damaged
    scan.faults.extend(
        f"{path}: has no HR partner in {hr_root}" for name, path in partners.items() if name not in present
    )
    scan.faults.extend(grouped(problems))
    scan.sources[:] = pairs


def _name(path, root, scan):
    """Return the path below `root` without suffix; that of a root that is a volume itself is "."."""
    name = path.relative_to(root)
    return name if path == root or path in scan.series else name.with_suffix("")
