"""Updates of a phase for the GPU benchmark: in float32 on any device, and captured as a CUDA graph."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from srgan_dist.benchmarks.facts import seconds
from srgan_dist.benchmarks.variants import crops_of
from srgan_dist.phases import build_phase
from srgan_dist.run.training_run import build_networks
from srgan_dist.training import start


def three_updates(config, name, device):
    """Take three float32 updates of a phase on a device.

    Returns {"metrics": tensors of all three updates, "weights": tensors after them}, in float64 on the CPU.
    """
    networks = build_networks(config, _float32_on(device))
    phase = build_phase(dict(config.phases())[name], networks, networks.accelerator)
    metrics = []
    for _ in range(3):
        metrics += [value.double().cpu() for value in phase.update(crops_of(config, 4, device)).values()]
    parameters = [weight for network in networks.initialized.values() for weight in network.parameters()]
    return {"metrics": metrics, "weights": [weight.detach().double().cpu() for weight in parameters]}


def _float32_on(device):
    """Return the parts of an Accelerator that networks and phases use: it knows one device per process."""
    return SimpleNamespace(
        device=device,
        num_processes=1,
        autocast=nullcontext,
        prepare_model=lambda network, evaluation_mode: network,
    )


def relative_difference(reference, other):
    """Return the norm of the difference of two tensors relative to that of the first."""
    return ((reference - other).norm() / reference.norm().clamp(min=1e-12)).item()


def captured_update(config, name, crops):
    """Capture an update of a phase as a CUDA graph; returns times and metrics of both ways."""
    accelerator = start(config.model_copy(update={"device": "cuda", "mixed_precision": "bf16"}))
    phase = build_phase(dict(config.phases())[name], build_networks(config, accelerator), accelerator)

    # Three updates on a side stream, then the capture
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            phase.update(crops)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, capture_error_mode="thread_local"):
        metrics = phase.update(crops)

    # Metrics of one replay and of the eager update after it, then the time of ten each
    captured.replay()
    replay_metrics = {key: value.item() for key, value in metrics.items()}
    eager_metrics = {key: value.item() for key, value in phase.update(crops).items()}
    replay, replay_host = seconds(lambda: [captured.replay() for _ in range(10)], "cuda")
    eager, eager_host = seconds(lambda: [phase.update(crops) for _ in range(10)], "cuda")
    return {
        "replay_ms": 100 * replay,
        "replay_host_ms": 100 * replay_host,
        "eager_ms": 100 * eager,
        "eager_host_ms": 100 * eager_host,
        "metrics_of_a_replay": replay_metrics,
        "metrics_of_the_eager_update_after_it": eager_metrics,
    }
