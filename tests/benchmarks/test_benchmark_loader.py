import json
import sys

import torch
from commands import run

from srgan_dist.benchmarks import loader


def test_every_reader_gives_batches_of_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SLICES", 1)
    monkeypatch.setattr(loader, "SIZE", 208)
    split = loader._make_data(tmp_path, 32)
    for batches, channels, peak in (
        (loader._our_reader(split), 1, 1),
        (loader._webdataset(split), 1, 1),
        (loader._png_folder(tmp_path / "png"), 3, 255),
        (loader._our_loader(split, torch.device("cpu")), 1, None),
    ):
        lr, hr = next(batches)
        batches.close()
        assert lr.shape == (16, channels, 48, 48) and hr.shape == (16, channels, 192, 192)
        lr, hr = ((x.float() * peak if peak else (x + 1) / 2 * 255).mean(1, keepdim=True) for x in (lr, hr))
        means = torch.nn.functional.avg_pool2d(hr, 4)
        correlation = torch.corrcoef(torch.stack([lr.flatten(), means.flatten()]))[0, 1]
        assert correlation > 0.98  # LR and HR of one crop


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    program = (
        "from srgan_dist.benchmarks import loader; loader.SLICES, loader.PAIRS, loader.SIZE = 1, 32, 208;"
        "loader.BLOCKS, loader.BLOCK = 3, 64;"
        "from srgan_dist.cli.benchmark import main; main()"
    )
    done = run(sys.executable, "-c", program, "loader", "--passes", "1", "--json", tmp_path / "l.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "l.json").read_text())
    readers = {"srgan_dist", "webdataset", "png_folder", "to_device", "volumes"}
    assert set(results) == readers | {"first_batch_ms", "private_mib", "machine", "passes"}
    assert all(results[name] > 0 for name in readers) and results["private_mib"] < 1024
    assert len(results["first_batch_ms"]) == 2 and min(results["first_batch_ms"]) > 0
    assert "WebDataset on the same shards" in done.stdout
    assert "volumes, 16^3 and 64^3 out of 64^3" in done.stdout
    assert "private memory after 10,000 pairs" in done.stdout
    assert "first batch of 12,000 pairs, entered at update 1,000,000: " in done.stdout
