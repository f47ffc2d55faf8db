"""The typical image of each rock and split, as every method shows it: what figures and the report draw."""

from dataclasses import dataclass

from srgan_dist.data.reader import Reader
from srgan_dist.evaluation.figures import middle_slices, name_plane, size_along_bar


@dataclass(frozen=True)
class Example:
    """An image, or one slice of a volume, as every method shows it.

    images: lr [H, W], hr and every method [s*H, s*W], on [0, 1]. scores: method -> {psnr, ssim} of the whole
    image or volume. voxel_size_um: of HR along its rows, None where the file does not say.
    """

    split: str
    rock: str
    plane: str  # `name_plane` of a slice of a volume, "" for images
    key: str
    images: dict
    scores: dict
    voxel_size_um: float | None = None


def typical_examples(splits, rows, methods):
    """Return the Examples of the image of median bicubic PSNR of each rock, split by split; of volumes the
    three middle slices.
    """
    examples = []
    for split in splits:
        reader = Reader(split)
        of_split = [row for row in rows if row["split"] == split.name]
        bicubic = [row for row in of_split if row["method"] == "bicubic"]
        for rock in sorted({row["rock"] for row in bicubic}):
            index = median_image([row for row in bicubic if row["rock"] == rock])
            lr, hr = reader.image(index)
            images = {"lr": lr / reader.peak}
            images |= {name: method(lr).cpu().numpy() for name, method in methods.items()}
            images["hr"] = hr / reader.peak
            scores = {
                row["method"]: {name: row[name] for name in ("psnr", "ssim")}
                for row in of_split
                if row["index"] == index
            }
            record = reader.record(index)
            slices = {name: middle_slices(image) for name, image in images.items()}
            for plane in slices["lr"]:
                of_plane = {name: planes[plane] for name, planes in slices.items()}
                name = name_plane(plane, record, (0, 0, 0), hr.shape)
                size = size_along_bar(record, plane)
                examples.append(Example(split.name, rock, name, split.key(index), of_plane, scores, size))
    return examples


def median_image(rows):
    """Return the index of the image whose PSNR is the median (the upper one of two)."""
    return sorted((row["psnr"], row["index"]) for row in rows)[len(rows) // 2][1]
