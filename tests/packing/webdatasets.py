"""WebDatasets as other people write them, with the writer of webdataset."""

import io
import json

import numpy as np
import pytest
import scipy.io
import webdataset
from conftest import texture
from PIL import Image

from srgan_dist.cli.index import main


def pair(seed, scale=4, dtype=np.uint8, size=(72, 80)):
    hr = texture(seed, *size, dtype)
    height, width = size[0] // scale, size[1] // scale
    return hr, hr.reshape(height, scale, width, scale).mean((1, 3)).astype(dtype)


def encoded(image, kind):
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, image)
    elif kind == "mat":
        scipy.io.savemat(file, {"image": image.T}, do_compression=True)  # MATLAB's first axis is x
    else:
        Image.fromarray(image).save(file, {"png": "PNG", "tif": "TIFF", "bmp": "BMP"}[kind], dpi=(254, 254))
    return file.getvalue()


def sample(seed, kind="png", **entries):
    hr, lr = pair(seed)
    return {
        "__key__": f"{seed:04d}",
        "note.txt": "of another program",
        f"lr.{kind}": encoded(lr, kind),
        "json": json.dumps(
            {"rock": "coal" if seed % 2 else "berea", "slice": seed // 2, "weight": 0.5}
        ).encode(),
        f"hr.{kind}": encoded(hr, kind),
    } | entries


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for each in samples:
            writer.write({k: v.encode() if k == "note.txt" else v for k, v in each.items()})
    return path


def write_shards(folder, kind="png", counts=(3, 3, 3, 2)):
    first = 0
    for number, count in enumerate(counts):
        write(folder / f"shards-{number:06d}.tar", [sample(first + i, kind) for i in range(count)])
        first += count
    return folder


def index(folder, *options, train="shards-{000000..000002}.tar", valid="shards-000003.tar"):
    names = ["--train", f"{folder}/{train}"] + (["--valid", f"{folder}/{valid}"] if valid else [])
    rock = [] if any(str(option).startswith("--rock") for option in options) else ["--rock-field", "rock"]
    main([str(folder), *names, *rock, *map(str, options)])
    return folder


def refused(capsys, *arguments, **names):
    with pytest.raises(SystemExit, match="1"):
        index(*arguments, **names)
    return capsys.readouterr().err
