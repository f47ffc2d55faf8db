"""Generators as ONNX files, which other programs run without PyTorch, for images of any size."""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import srgan_dist
from srgan_dist.models import noise_channels
from srgan_dist.models.weights_file import check_output
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write
from srgan_dist.utils.tensor_files import write_failures_named

TOLERANCE = 1e-4  # of outputs in [-1, 1], 0.013 grey levels of 8 bits: between PyTorch and onnxruntime
OPSET = 18
AXES = "depth", "height", "width"
SMALLEST_TRACED = 6  # LR pixels along each axis; below it layers take other ways to the same values
CHECKED = ((1, (7, 8, 6)), (2, (9, 16, 11)), (1, (12, 13, 23)))  # (batch, LR shape) that are compared


class _WithNoise(nn.Module):
    """A generator with noise as a function of two inputs."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, lr, noise):
        return self.generator(lr, noise)


class _WithoutNoise(nn.Module):
    """A generator with noise as a function of LR alone: its noise is zero, as of `upscale --noise 0`."""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.channels = generator, noise_channels(generator.config)

    def forward(self, lr):
        shape = [self.generator.config.scale * side for side in lr.shape[2:]]
        return self.generator(lr, lr.new_zeros(lr.shape[0], self.channels, *shape))


def export_onnx(path, generator, facts, without_noise=False):
    """Write a generator as an ONNX file and run it on random images of several sizes; returns the largest
    deviation from PyTorch, of outputs in [-1, 1].

    Inputs are `lr`, float32 [batch, 1, *shape] in [-1, 1], and of a generator with noise, unless
    without_noise, `noise`, float32 [batch, channels, *(scale * shape)], normally distributed; zeros are none.
    The output is `sr`, float32 [batch, 1, *(scale * shape)]. All axes but the channels are of any length.
    facts: those of the weights file. Raises UserError where the network cannot be expressed in ONNX, or a
    deviation exceeds TOLERANCE; no file is left then, and none that exists is replaced.
    """
    onnx, runtime = _libraries()
    path = Path(path)
    network = _on_cpu(generator, without_noise)
    model = _traced(network, generator.config, path)
    _describe(model, generator.config, facts, onnx)
    with write_failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, replace=False) as unfinished:
            unfinished.write_bytes(_serialized(model, path))
            deviation = _largest_deviation(unfinished, network, generator, runtime, path)
    return deviation


def check_onnx_libraries():
    """Raise UserError where the libraries of ONNX are missing."""
    _libraries()


def _libraries():
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise UserError(
            f"ONNX files need onnx, onnxruntime and onnxscript, of which {error.name} cannot be imported;"
            " install them with: pip install 'srgan_dist[export]'"
        ) from None
    return onnx, onnxruntime


def _on_cpu(generator, without_noise):
    """Return a copy of a generator on the CPU, in eval mode and the plain memory format, as exported."""
    network = copy.deepcopy(generator).to("cpu", memory_format=torch.contiguous_format)
    if noise_channels(generator.config):
        network = (_WithoutNoise if without_noise else _WithNoise)(network)
    return network.eval()


def _inputs(network, config, batch, shape):
    """Return random inputs of a network: [lr], with noise [lr, noise]."""
    drawn = torch.Generator().manual_seed(batch + sum(shape))
    inputs = [2 * torch.rand(batch, 1, *shape, generator=drawn) - 1]
    if isinstance(network, _WithNoise):
        sides = [config.scale * side for side in shape]
        inputs.append(torch.randn(batch, noise_channels(config), *sides, generator=drawn))
    return inputs


def _traced(network, config, path):
    """Return the ONNX model of a network, for any batch and shape."""
    axes = AXES[-config.ndim :]
    sides = [torch.export.Dim(axis, min=SMALLEST_TRACED, max=2**20) for axis in axes]
    batch = torch.export.Dim("batch", min=1)
    inputs = _inputs(network, config, 2, [SMALLEST_TRACED + 6 + 2 * axis for axis in range(config.ndim)])
    lr = {0: batch} | {2 + axis: side for axis, side in enumerate(sides)}
    hr = {0: batch} | {2 + axis: config.scale * side for axis, side in enumerate(sides)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, of names of axes; the result is compared
            program = torch.onnx.export(
                network,
                tuple(inputs),
                dynamo=True,
                dynamic_shapes=(lr, hr)[: len(inputs)],
                input_names=("lr", "noise")[: len(inputs)],
                output_names=("sr",),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # PyTorch raises many kinds, for layers that ONNX or free sizes do not allow
        words = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{path} cannot be made: PyTorch {torch.__version__} cannot express generator.name={config.name},"
            f" ndim={config.ndim}, in ONNX for images of any size ({words:.300}). A Hugging Face folder holds"
            " any generator: give an OUTPUT without a suffix"
        ) from None
    return program.model_proto


def _describe(model, config, facts, onnx):
    """Write into a model what its inputs and output are, and drop what the exporter notes of its source
    files.
    """
    for part in (model, model.graph, *model.functions, *_parts_of(model.graph)):
        del part.metadata_props[:]
    texts = io_texts(config, facts, with_noise=len(model.graph.input) > 1)
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = texts[value.name]
    model.producer_name, model.producer_version = "srgan_dist", srgan_dist.__version__
    model.doc_string = f"Super resolution x{config.scale} of {config.ndim}-D micro-CT images. " + " ".join(
        f"{name}: {text}." for name, text in texts.items()
    )
    names = "phase", "scores", "window", "grey_ranges", "data", "provenance"
    known = {name: facts[name] for name in names if name in facts}
    properties = texts | {
        "scale": str(config.scale),
        "ndim": str(config.ndim),
        "generator": config.model_dump_json(),
        "facts": json.dumps(known),
    }
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)


def _parts_of(graph):
    return (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output)


def io_texts(config, facts, with_noise):
    """Return what goes into a generator and comes out of it: {name of the tensor: sentence}."""
    shape = ", ".join(AXES[-config.ndim :])
    enlarged = ", ".join(f"{config.scale}*{axis}" for axis in AXES[-config.ndim :])
    window = f", of a volume whose values {facts['window']} are 0 and top" if facts.get("window") else ""
    texts = {
        "lr": f"float32 [batch, 1, {shape}] in [-1, 1]: 2 * grey / top - 1, top = 255 (uint8) or 65535"
        f" (uint16){window}"
    }
    if with_noise:
        texts["noise"] = (
            f"float32 [batch, {noise_channels(config)}, {enlarged}], normally distributed, mean 0 and"
            " standard deviation 1; zeros: no grain"
        )
    return texts | {
        "sr": f"float32 [batch, 1, {enlarged}]: grey = round(top * clip((sr + 1) / 2, 0, 1)); values beyond"
        " [-1, 1] are overshoot"
    }


def _serialized(model, path):
    try:
        return model.SerializeToString()
    except ValueError as error:  # of protobuf, beyond 2 GB
        raise UserError(f"{path} cannot be made: {error}; an ONNX file holds 2 GB at most") from None


def _largest_deviation(file, network, generator, runtime, path):
    """Run an ONNX file on random images beside the network; returns their largest difference."""
    way_out = (
        "Nothing was written. Install the newest onnx, onnxruntime and PyTorch, or give an OUTPUT without a"
        " suffix for a Hugging Face folder"
    )
    config, largest = generator.config, 0.0
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for batch, shape in CHECKED:
            inputs = _inputs(network, config, batch, shape[-config.ndim :])
            named = dict(zip(("lr", "noise"), (tensor.numpy() for tensor in inputs)))
            (sr,) = session.run(["sr"], named)
            with torch.inference_mode():
                expected = network(*inputs)
            check_output(expected, generator)
            expected = expected.numpy()
            if sr.shape != expected.shape:
                raise UserError(
                    f"{path}: onnxruntime makes {list(sr.shape)} of an LR image {list(inputs[0].shape)},"
                    f" PyTorch {list(expected.shape)}. {way_out}"
                )
            largest = max(largest, float(np.abs(sr - expected).max()))
    except UserError:
        raise
    except Exception as error:  # of onnxruntime, whose errors have no common class
        words = " ".join(str(error).split())
        raise UserError(
            f"{path}: onnxruntime cannot run what was exported ({words:.300}). {way_out}"
        ) from None
    if not largest <= TOLERANCE:
        raise UserError(
            f"{path}: onnxruntime and PyTorch differ by up to {largest:.2g} on random images, of outputs in"
            f" [-1, 1]; {TOLERANCE:g} is allowed. {way_out}"
        )
    return largest
