"""Updates on a GPU that is not there. Fake tensors have its device, its types and its autocast, and no
values: whatever would make the host wait for one (`.item()`, `if tensor`, a boolean mask) raises.
"""

import collections
from types import SimpleNamespace

import pytest
import torch
import torch.distributed
from accelerators import accelerator_on
from conftest import tiny_config
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from srgan_dist.models import networks as networks_module
from srgan_dist.phases import build_phase
from srgan_dist.phases import phase as common
from srgan_dist.run.training_run import build_networks

GPU = torch.device("cuda:0")
LOSSES = {
    "pixel": {"name": "l1"},
    "perceptual": {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1.0},
}
# Operations by the precision of their first input
IN_BF16 = {"convolution", "addmm", "_prelu_kernel", "native_batch_norm", "cudnn_batch_norm"}
IN_FLOAT32 = {"softplus", "mse_loss", "linalg_vector_norm", "_foreach_norm", "_fused_adam_", "baddbmm"}


class Operations(TorchDispatchMode):
    """Notes operations: how often, with which type of their first tensor, on which devices."""

    def __init__(self):
        super().__init__()
        self.count, self.types, self.devices = collections.Counter(), collections.defaultdict(set), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__
        tensors = [
            leaf for leaf in torch.utils._pytree.tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)
        ]
        self.count[name] += 1
        self.types[name] |= {tensor.dtype for tensor in tensors[:1]}
        self.devices |= {tensor.device for tensor in tensors}
        return out


def fake_backward(loss, gradient=None):
    """Give every leaf below a loss a gradient; autograd's engine would ask the driver for its streams."""
    assert loss.device == gradient.device == GPU and loss.shape == gradient.shape
    found, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [before for before, _ in node.next_functions]
        if hasattr(node, "variable") and node.variable.grad is None:
            node.variable.grad = torch.empty_like(node.variable)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Fake tensors for everything but the initial weights, which are made as ever and then taken for fake
    ones.
    """
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.Tensor, "backward", fake_backward)

    def made_real(build):
        def made(*arguments):
            with unset_fake_temporarily():
                return build(*arguments)

        return made

    # PyTorch lacks this one for fake tensors: the kernel returns nothing
    library = torch.library.Library("aten", "IMPL", "Meta")
    library.impl("_fused_adam_.tensor_lr", lambda *_, **__: None)
    for module, name in (
        (networks_module, "build_generator"),
        (networks_module, "build_discriminator"),
        (common, "build_loss"),
    ):
        monkeypatch.setattr(module, name, made_real(getattr(module, name)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    library._destroy()


def prepared(name, accelerator, max_spike=None, **networks):
    """Return update() of a phase that has taken one, which makes what is made once; phase 1 has Muon."""
    options = {"steps": 9, "losses": LOSSES, "max_grad_norm": 1.0, "ema_decay": 0.9, "max_spike": max_spike}
    pretrain = options | {"optimizer": {"name": "muon"}}
    config = tiny_config("unused", "unused", adversarial=options, pretrain=pretrain, **networks)
    phase = build_phase(getattr(config, name), build_networks(config, accelerator), accelerator)
    crops = [torch.empty(4, 1, side, side, device=GPU) for side in (config.data.lr_crop, config.hr_crop)]

    def update(micro_batches=1):
        return phase.update([crops] * micro_batches)

    update()
    return update


# A copy of a module looks at the pointer
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("spikes", [None, 20.0])
def test_an_update_stays_on_the_gpu_in_the_types_of_mixed_precision_and_the_host_waits_for_nothing(
    fake_gpu, name, precision, micro_batches, spikes
):
    update = prepared(name, accelerator_on(GPU, precision), max_spike=spikes)
    with Operations() as seen:
        metrics = update(micro_batches)
    assert seen.devices == {GPU}
    assert {(value.device, value.dtype, value.shape) for value in metrics.values()} == {
        (GPU, torch.float32, ())
    }
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    for kinds, dtype in ((IN_BF16, low), (IN_FLOAT32, torch.float32)):
        assert {kind: seen.types[kind] for kind in kinds & seen.types.keys()} == {
            kind: {dtype} for kind in kinds & seen.types.keys()
        }
    assert {"convolution", "_fused_adam_", "_foreach_norm"} <= seen.types.keys()


def test_a_wait_would_be_seen(fake_gpu):
    flag = torch.ones((), device=GPU)
    for wait in (torch.Tensor.item, bool, lambda flag: torch.ones(2, device=GPU)[flag > 0]):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            wait(flag)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
def test_weights_are_turned_into_bf16_and_averaged_by_one_launch_for_all(fake_gpu, name):
    counts = []
    for num_blocks in (1, 3):
        update = prepared(
            name,
            accelerator_on(GPU, "bf16"),
            generator={"num_blocks": num_blocks, "num_filters": 8, "init_std": None},
        )
        with Operations() as seen:
            update()
        counts.append(
            {
                kind: n
                for kind, n in seen.count.items()
                if kind in ("_to_copy", "copy_", "lerp_") or kind.startswith("_foreach")
            }
        )
    assert counts[0] == counts[1] and counts[0]["_foreach_copy_"] <= 8


@pytest.fixture
def rank_3_of_512(monkeypatch):
    """A group of which the other ranks are not there; yields what is asked of it: (kind, elements, type,
    asynchronous).
    """
    torch.distributed.init_process_group("fake", rank=3, world_size=512, store=FakeStore())
    noted = []

    def counted(tensor, async_op=False):  # PyTorch's own knows no fake tensors before 2.14
        assert tensor.device == GPU and tensor.is_contiguous()
        noted.append((tensor.numel(), tensor.dtype, async_op))
        return SimpleNamespace(wait=lambda: noted.append("wait")) if async_op else None

    monkeypatch.setattr(torch.distributed, "all_reduce", counted)
    yield noted
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_collectives_of_an_update_of_512_ranks(
    fake_gpu, rank_3_of_512, monkeypatch, name, precision, micro_batches
):
    """Each network's gradients travel once, as float32 and asynchronously: the discriminator's, of which the
    large dense layer goes as it is, while the content losses go backward.
    """
    monkeypatch.setattr("srgan_dist.optim.all_reduce.LARGE_GRADIENT_BYTES", 4 * 128 * 128)
    update = prepared(
        name,
        accelerator_on(GPU, precision, ranks=512),
        discriminator={"num_filters": 4, "num_dense": 128, "init_std": None},
    )

    def backward(tensor, gradient=None):
        rank_3_of_512.append("backward" if tensor.shape == () else "backward from SR")
        fake_backward(tensor, gradient)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    rank_3_of_512.clear()
    update(micro_batches)
    generator, dense, rest = ((count, torch.float32, True) for count in (6537, 128 * 128, 18_933))
    of_generator = [generator, "wait"]
    if name == "pretrain":
        assert rank_3_of_512 == ["backward"] * micro_batches + of_generator
    else:
        per_part = ["backward", "backward", "backward from SR"]
        assert (
            rank_3_of_512
            == ["backward"] * micro_batches
            + [dense, rest]
            + ["backward", "wait", "wait", "backward", "backward from SR"]
            + (per_part * (micro_batches - 1))
            + of_generator
        )


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_the_host_does_not_wait_for_the_statistics_of_other_ranks_either(fake_gpu, rank_3_of_512):
    update = prepared(
        "adversarial",
        accelerator_on(GPU, "bf16", ranks=512),
        discriminator={"num_filters": 4, "num_dense": 16, "init_std": None, "sync_batchnorm": True},
    )
    with Operations() as seen:
        update()
    assert seen.devices == {GPU} and "native_batch_norm" not in seen.types
