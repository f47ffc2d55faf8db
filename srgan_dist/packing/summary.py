"""The content of a packed set as tables."""

import numpy as np

from srgan_dist.data.manifest import SPLITS


def format_counts(manifest):
    """Return a table of images per rock and split, with shards and bytes per split."""
    rocks, splits = manifest.rocks, [split for split in SPLITS if split in manifest.splits]
    title = f"x{manifest.scale} {manifest.dtype}" + " 3-D" * (manifest.ndim == 3)
    title += f" {manifest.encoding}" * (manifest.encoding != "npy")
    width = max(len(name) for name in [*rocks, title]) + 2
    lines = [title.ljust(width) + "".join(f"{split:>12}" for split in (*splits, "all"))]
    for rock in rocks:
        counts = [manifest.splits[split].rocks.get(rock, 0) for split in splits]
        lines.append(rock.ljust(width) + "".join(f"{count:>12,}" for count in (*counts, sum(counts))))
    for name, of in (
        ("images", lambda s: s.count),
        ("shards", lambda s: len(s.shards)),
        ("bytes", lambda s: sum(shard.bytes for shard in s.shards)),
    ):
        values = [of(manifest.splits[split]) for split in splits]
        lines.append(name.ljust(width) + "".join(f"{value:>12,}" for value in (*values, sum(values))))
    return "\n".join(lines)


def format_ranges(packed):
    """Return a table of image sizes and grey levels per split and rock of a PackedSet."""
    lines = [f"{'split':<8}{'rock':<16}{'HR pixels':>22}{'darkest':>9}{'brightest':>11}"]
    for name in SPLITS:
        split = packed.split(name)
        for number, rock in enumerate(split.rocks) if split else ():
            rows = split.rows[split.rows["rock"] == number]
            if len(rows):
                sizes = sorted(map(tuple, np.unique(rows["lr_shape"] * split.scale, axis=0).tolist()))
                shown = "x".join(map(str, sizes[0])) + (
                    f" .. {'x'.join(map(str, sizes[-1]))}" if len(sizes) > 1 else ""
                )
                lines.append(
                    f"{name:<8}{rock:<16}{shown:>22}{rows['darkest'].min():>9}{rows['brightest'].max():>11}"
                )
    return "\n".join(lines)
