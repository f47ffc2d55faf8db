"""Write a generator for other programs: srgan-dist export WEIGHTS OUTPUT"""

import argparse

from srgan_dist.runtime.parent_death import use_one_blas_thread
from srgan_dist.utils.errors import cli_errors


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a generator as an ONNX file, which is checked by running it, or as a folder in the"
        " layout of the Hugging Face hub, with a model card. Nothing is uploaded.",
    )
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="generator, e.g. runs/demo/weights/adversarial.safetensors"
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="a new .onnx file, or a new folder: config.json, model.safetensors, README.md",
    )
    parser.add_argument(
        "--without-noise",
        action="store_true",
        help="of a generator with noise: an ONNX file of one input, whose result is that of noise 0; by"
        " default the noise is a second input",
    )
    arguments = parser.parse_args(argv)

    use_one_blas_thread()  # before NumPy is imported
    from srgan_dist.api import export

    deviation = export(arguments.weights, arguments.output, arguments.without_noise)
    if deviation is None:
        print(f"{arguments.output}: a folder for the Hugging Face hub; add a licence to its README.md")
    else:
        print(
            f"{arguments.output}: onnxruntime and PyTorch differ by at most {deviation:.1e} on random"
            " images, of outputs in [-1, 1]"
        )
