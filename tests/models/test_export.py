"""Generators for other programs: ONNX files beside PyTorch, folders for the Hugging Face hub, refusals."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY, texture
from safetensors import safe_open

import srgan_dist
from srgan_dist.cli import main
from srgan_dist.models import onnx_file
from srgan_dist.models.hub_folder import save_folder, travelling_config
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import load_generator, save_generator

FACTS = {
    "phase": "adversarial",
    "samples_seen": 4096,
    "window": "-500.0:1500.0",
    "grey_ranges": [{"rock": "coal|ä", "low": 0.2, "high": 0.6}, {"rock": "coal|ä", "low": 0.4, "high": 0.8}],
    "scores": {
        "valid": {"coal|ä": {"bicubic": {"psnr": 30.0, "ssim": 0.8}, "SR": {"psnr": 32.5, "ssim": 0.85}}}
    },
    "data": [
        {
            "sha256": "ab" * 32,
            "scale": 2,
            "dtype": "uint16",
            "rocks": {
                "coal|ä": {"images": 1200, "darkest": 7, "brightest": 60001, "voxel_size_um": [2, 1.5, 1.5]}
            },
        }
    ],
    "provenance": {"torch": "2.14.0", "commit": None},
    "config": {
        "name": "trial",
        "output": "runs_of_jane",
        "data": {
            "path": "/home/jane/rocks",
            "cache": "https://jane:pw@jane.org/a/b.tar?jane#c",
            "batch_size": 16,
        },
        "pretrain": {"losses": {"vgg": {"weights": "C:\\jane\\vgg.pth"}}},
        "tracking": {"entity": "jane"},
    },
}


def saved(path, **settings):
    """Write random weights with FACTS; returns their generator, whose texture is strong."""
    torch.manual_seed(1)
    defaults = {"scale": 2, "num_blocks": 1, "num_filters": 4, "init_std": None}
    generator = SRResNet(SRResNetConfig(**defaults | settings)).eval()
    if generator.texture:
        for layer in (generator.texture.amplitude, generator.texture.detail):
            torch.nn.init.normal_(layer.weight, std=0.3)
    save_generator(path, generator, FACTS)
    return generator


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(inputs)
    return session.run(["sr"], {name: tensor.numpy() for name, tensor in inputs.items()})[0]


# ONNX


@pytest.mark.parametrize(
    "settings, shapes",
    [
        ({"upsampling": "nearest_after", "tail_kernel": 3, "scale": 3}, [(1, 1), (5, 40), (33, 18)]),
        ({"noise": 2}, [(6, 2), (40, 21)]),
        pytest.param(
            {"ndim": 3, "upsampling": "nearest_before", "noise": 1, "input_skip": True},
            [(2, 3, 7), (9, 14, 11)],
            marks=pytest.mark.slow,
        ),
        pytest.param({"ndim": 3, "scale": 4}, [(1, 2, 3), (5, 7, 6)], marks=pytest.mark.slow),
        pytest.param(
            {"upsampling": "trilinear", "input_skip": True}, [(3, 4), (20, 9)], marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_onnx_file_gives_what_the_generator_gives_on_images_of_any_size(
    tmp_path, capsys, settings, shapes
):
    generator = saved(tmp_path / "g.safetensors", **settings)
    main(["export", str(tmp_path / "g.safetensors"), str(tmp_path / "new" / "g.onnx")])
    assert "onnxruntime and PyTorch differ by at most " in capsys.readouterr().out
    for batch, shape in enumerate(shapes, 1):
        inputs = {"lr": 2 * torch.rand(batch, 1, *shape) - 1}
        if settings.get("noise"):
            inputs["noise"] = torch.randn(
                batch, settings["noise"], *(generator.config.scale * s for s in shape)
            )
        with torch.inference_mode():
            expected = generator(*inputs.values()).numpy()
        assert np.abs(run(tmp_path / "new" / "g.onnx", **inputs) - expected).max() <= 1e-4

    # What it says of itself, and does not say
    content = (tmp_path / "new" / "g.onnx").read_bytes()
    for word in (b"jane", b"srgan_dist/", b"site-packages", str(tmp_path).encode()):
        assert word not in content
    model = onnx.load_model_from_string(content)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert "float32 [batch, 1, " in properties["lr"] and "-500.0:1500.0" in properties["lr"]
    assert properties["scale"] == str(generator.config.scale)
    facts = json.loads(properties["facts"])
    assert [facts[name] == FACTS[name] for name in ("scores", "grey_ranges")] == [True, True]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["g.onnx"]


def test_without_noise_an_onnx_file_has_one_input_and_the_result_of_noise_0(tmp_path):
    generator = saved(tmp_path / "g.safetensors", noise=1)
    largest = srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "g.onnx", without_noise=True)
    assert 0 <= largest <= 1e-4
    lr = 2 * torch.rand(1, 1, 9, 12) - 1
    with torch.inference_mode():
        expected = generator(lr, torch.zeros(1, 1, 18, 24)).numpy()
    assert np.abs(run(tmp_path / "g.onnx", lr=lr) - expected).max() <= 1e-4
    # as `upscale --noise 0` does
    image = texture(3, 9, 12)
    lr = torch.from_numpy(image).float().view(1, 1, 9, 12) / 127.5 - 1
    sr = np.rint(255 * np.clip((run(tmp_path / "g.onnx", lr=lr)[0, 0] + 1) / 2, 0, 1))
    resolver = srgan_dist.load_generator(tmp_path / "g.safetensors", "cpu")
    assert np.abs(sr - resolver(image, noise=0.0)).max() <= 1


def test_a_file_that_deviates_is_an_error_and_does_not_stay(tmp_path, monkeypatch):
    saved(tmp_path / "g.safetensors")
    monkeypatch.setattr(onnx_file, "TOLERANCE", 1e-12)
    with pytest.raises(srgan_dist.UserError, match="g.onnx: onnxruntime and PyTorch differ by up to "):
        srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "g.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


class Sorting(torch.nn.Module):
    """A generator that no ONNX file holds: what it does depends on the values of the image."""

    config = SRResNetConfig(scale=2)

    def forward(self, lr):
        return lr * 2 if lr.sum() > 0 else lr


def test_weights_that_make_no_images_are_no_onnx_file(tmp_path):
    generator = saved(tmp_path / "g.safetensors", tanh=False)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1e30)
    save_generator(tmp_path / "g.safetensors", generator, FACTS)
    with pytest.raises(srgan_dist.UserError, match="g.safetensors gives .* where images are -1 to 1"):
        srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()


def test_a_network_that_onnx_cannot_express_is_a_named_error(tmp_path):
    words = "g.onnx cannot be made: PyTorch .* cannot express generator.name=srresnet, ndim=2, in ONNX"
    with pytest.raises(srgan_dist.UserError, match=words):
        onnx_file.export_onnx(tmp_path / "g.onnx", Sorting(), {})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_names_the_extra_before_any_work(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        srgan_dist.UserError, match=rf"{library} cannot .* pip install 'srgan_dist\[export\]'"
    ):
        srgan_dist.export("nowhere.safetensors", tmp_path / "g.onnx")


@pytest.mark.parametrize(
    "output, options, words",
    [
        ("taken", [], "taken exists and is left as it is"),
        ("taken.onnx", [], "taken.onnx exists and is left as it is"),
        ("g.pth", [], ".pth files are not written; give a name that ends in .onnx or, for a folder"),
        ("new", ["--without-noise"], "--without-noise is for an ONNX file; leave it out"),
        (
            "new.onnx",
            ["--without-noise"],
            "--without-noise is for a generator with noise, which this one has not",
        ),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, capsys, output, options, words):
    saved(tmp_path / "g.safetensors")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken.onnx").touch()
    with pytest.raises(SystemExit, match="1"):
        main(["export", str(tmp_path / "g.safetensors"), str(tmp_path / output), *options])
    assert words in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"g.safetensors", "taken", "taken.onnx"}


@pytest.mark.parametrize("settings", [{"scale": 6, "upscale_filters": 3}, {"prelu": "layer", "tanh": False}])
def test_the_state_dict_is_as_documented(tmp_path, settings):
    generator = saved(tmp_path / "adversarial.safetensors", num_blocks=2, **settings)
    page = (REPOSITORY / "docs" / "data.md").read_text().partition("### The state dict")[2]
    program = page.partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(program.replace("adversarial.safetensors", str(tmp_path / "adversarial.safetensors")), names)
    lr = 2 * torch.rand(2, 1, 9, 7) - 1
    torch.testing.assert_close(names["super_resolve"](lr), generator(lr), rtol=0, atol=1e-5)


# The hub


def test_a_folder_holds_config_weights_and_card_and_is_loaded_again(tmp_path):
    generator, lr = saved(tmp_path / "g.safetensors"), texture(1, 12, 10)
    assert srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "out" / "rocks.x2.v1") is None
    folder = tmp_path / "out" / "rocks.x2.v1"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rocks.x2.v1"]
    expected = srgan_dist.load_generator(tmp_path / "g.safetensors", "cpu")(lr)
    for load in (srgan_dist.from_pretrained, srgan_dist.load_generator):
        assert np.array_equal(load(folder, "cpu")(lr), expected)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "srgan_dist" and config["data"] == FACTS["data"]
    assert config["grey_ranges"] == FACTS["grey_ranges"]
    assert config["generator"] == generator.config.model_dump(mode="json")

    # The card has the figures, and nothing names the machine
    card = (folder / "README.md").read_text()
    for line in (
        "# trial: super resolution x2 of micro-CT images",
        r"| coal\|ä | 1,200 | 7 to 60001 | 2 x 1.5 x 1.5 |",
        r"| valid | coal\|ä | 32.50 (+2.50) | 0.8500 (+0.0500) |",
        "Values -500.0:1500.0 of the volumes became black to white.",
        "The range of LR's grey levels (percentiles 1 and 99), with which that of an image is compared, of"
        r" 65535: coal\|ä 13107 to 39321, 26214 to 52428.",
        "- torch: 2.14.0",
    ):
        assert line in card.splitlines()
    assert all(b"jane" not in path.read_bytes() for path in folder.iterdir())
    with safe_open(folder / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["config"] == {
        "name": "trial",
        "data": {"path": "rocks", "cache": "b.tar", "batch_size": 16},
        "pretrain": {"losses": {"vgg": {"weights": "vgg.pth"}}},
    }


def test_weights_without_facts_have_a_card_that_says_so(tmp_path):
    save_generator(tmp_path / "g.safetensors", SRResNet(SRResNetConfig(num_blocks=1, num_filters=2)), {})
    srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "The weights do not say" in card and "None: the run had no validation split." in card


def test_upscale_takes_a_folder(tmp_path):
    saved(tmp_path / "g.safetensors")
    srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "folder")
    np.save(tmp_path / "lr.npy", texture(2, 8, 9))
    for weights in ("g.safetensors", "folder"):
        main(
            [
                "upscale",
                *(str(tmp_path / name) for name in (weights, "lr.npy", f"{weights}.npy")),
                "--device=cpu",
            ]
        )
    assert np.array_equal(np.load(tmp_path / "g.safetensors.npy"), np.load(tmp_path / "folder.npy"))


def test_a_repository_of_the_hub_is_found_in_its_cache_without_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    saved(tmp_path / "g.safetensors")
    srgan_dist.export(tmp_path / "g.safetensors", tmp_path / "folder")
    repository, commit = tmp_path / "hub" / "models--owner--rocks", "c" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tmp_path / "folder", repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert srgan_dist.from_pretrained("owner/rocks", "cpu").scale == 2
    with pytest.raises(
        srgan_dist.UserError, match="owner/coal is no file .* cannot be fetched from the Hugging"
    ):
        srgan_dist.from_pretrained("owner/coal")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../rocks", "runs/demo/weights/x.safetensors", "/a/b"])
def test_a_name_that_is_neither_path_nor_id_is_refused(name):
    with pytest.raises(srgan_dist.UserError, match="neither a file or folder nor the id of a repository"):
        srgan_dist.from_pretrained(name)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(
        srgan_dist.UserError, match="is not a file; .* or an exported folder with model.safet"
    ):
        srgan_dist.from_pretrained(tmp_path)
    with pytest.raises(srgan_dist.UserError, match="revision='v1' is for a repository of the hub"):
        srgan_dist.from_pretrained(tmp_path, revision="v1")


@pytest.mark.parametrize(
    "path, left",
    [
        ("demo/shards/", "shards"),
        ("C:/jane/rocks", "rocks"),
        ("s3://jane/rocks", "rocks"),
        ("https:/jane:pw@jane.org/set?key=jane/x", "set"),
        ("https://jane:pw@jane.org", None),
        ("/", None),
        ("rocks_x4", "rocks_x4"),
    ],
)
def test_of_paths_and_urls_the_last_part_is_left(path, left):
    assert travelling_config({"data": [{"path": path}], "output": "/home/jane"}) == {"data": [{"path": left}]}


def test_a_folder_may_have_the_longest_name(tmp_path):
    folder = tmp_path / ("o" * 255)
    save_folder(folder, SRResNet(SRResNetConfig(num_blocks=1, num_filters=2)), {})
    assert list(tmp_path.iterdir()) == [folder] and load_generator(folder)
