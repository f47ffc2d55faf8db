"""One rank of tests with several: python distributed_worker.py TASK CONFIG OUT, under torchrun or alone."""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator

from srgan_dist.config import load_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.scoring import methods_of, score_split
from srgan_dist.evaluation.validation import Validator
from srgan_dist.integrity.find_corruption import check_corruption_limit
from srgan_dist.phases.adversarial import AdversarialPhase
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.run.preflight import preflight
from srgan_dist.run.step_timer import StepTimer
from srgan_dist.run.training_run import TrainingRun, build_networks
from srgan_dist.runtime import process_group
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError, cli_errors


def digest(module):
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def digest_of(lr, hr):
    return hashlib.sha256(lr.numpy().tobytes() + hr.numpy().tobytes()).hexdigest()


def sending(call, number, at):
    """Wrap a function so that its call number `at` sends this process a signal before it ends."""
    left = [at]

    def called(*arguments, **options):
        result = call(*arguments, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), number)
        return result

    return called


def train_disturbed(config, out):
    """Train; rank 1 is killed in update 5, and once it is restarted it is asked to stop after update 8, 2 of
    phase 2.
    """
    phase, number, at = [(PretrainPhase, signal.SIGKILL, 5), (AdversarialPhase, signal.SIGTERM, 2)][
        int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    ]
    if os.environ["RANK"] == "1":
        phase.update = sending(phase.update, number, at)
    return train_both_phases(config, out)


def train_and_be_stopped_late(config, out):
    """Train; the launcher is sent a signal in the last validation."""
    validate, left = Validator.validate, [3]

    def late(*arguments):
        left[0] -= 1
        if not left[0] and os.environ["RANK"] == "0":
            os.kill(os.getppid(), signal.SIGUSR1)
            time.sleep(1)  # until it has passed it on
        return validate(*arguments)

    with mock.patch.object(Validator, "validate", late):
        return train_both_phases(config, out)


def train_both_phases(config, out):
    trained = train(config)
    report = {"generator": digest(trained.generator), "discriminator": digest(trained.discriminator)}
    return report, {name: value.clone() for name, value in trained.generator.state_dict().items()}


def read_batches(config, out):
    accelerator = Accelerator()
    loader = TrainLoader(
        [(open_split(config.data.path, "train"), 1.0)],
        config.data.lr_crop,
        config.data.batch_size,
        config.seed,
        config.data.augment,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
    )
    batches = loader.batches(0)
    hashes = []
    for _ in range(5):
        hashes.append(list(map(digest_of, *next(batches))))
    batches.close()
    accelerator.end_training()
    return {"batches": hashes}, None


def read_exactly(config, out):
    """Look for damage, read four updates in micro-batches, and score."""
    accelerator = Accelerator()
    layout = accelerator.process_index, accelerator.num_processes
    train_sets = preflight(config, world_size=layout[1]).train
    report = {"batches": []}
    try:
        check_corruption_limit(train_sets, [], 0, *layout)
    except UserError as error:
        report["refused"] = str(error)
    report["damage"] = check_corruption_limit(train_sets, [], config.data.max_bad_samples, *layout)
    loader = TrainLoader(
        train_sets,
        config.data.lr_crop,
        config.data.batch_size,
        config.seed,
        config.data.augment,
        *layout,
        accelerator.device,
        [[one.row for one in damages] for damages in report["damage"]],
        gradient_accumulation_steps=2,
    )
    batches = loader.batches(0)
    for _ in range(4 * 2):
        report["batches"].append(list(map(digest_of, *next(batches))))
    batches.close()
    split = train_sets[-1][0]  # the first is damaged
    report["scores"] = score_split(
        split, methods_of({}, split.scale, accelerator.device, split.ndim), *layout, accelerator.device
    )
    accelerator.end_training()
    return report, None


def noting_loader(seen):
    """Return a TrainLoader that adds digests of the crops of every update of its rank to a list."""

    class Noting(TrainLoader):
        def batches(self, first_update):
            with contextlib.closing(super().batches(first_update)) as batches:
                for lr, hr in batches:
                    seen.append(list(map(digest_of, lr, hr)))
                    yield lr, hr

    return Noting


def note_what_is_seen(config, out):
    """Train, and note the crops of every update of this rank."""
    seen = []
    with mock.patch("srgan_dist.run.training_run.TrainLoader", noting_loader(seen)):
        train(config)
    return {"seen": seen}, None


DEATHS = [4, 9, 11, 14]  # the updates after whose checkpoint a rank is killed, once each


def train_and_die(config, out):
    """Train until the next death: rank 0 and rank 1 are killed in turn."""
    died = sum((out / f"death{update}").exists() for update in DEATHS)
    save = TrainingRun.save

    def save_and_die(self, *arguments, **options):
        save(self, *arguments, **options)
        self.writer.wait()
        process_group.barrier()
        if DEATHS[died : died + 1] == [self.state.global_step] and int(os.environ["RANK"]) == died % 2:
            (out / f"death{self.state.global_step}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(TrainingRun, "save", save_and_die):
        return train_both_phases(config, out)


def train_in_separate_directories(config, out):
    train(config.model_copy(update={"output": f"{config.output}/rank{os.environ['RANK']}"}))


def share_batch_norm_buffers(config, out):
    accelerator = Accelerator()
    networks = build_networks(config, accelerator)
    torch.manual_seed(accelerator.process_index)
    for _ in range(2):
        networks.discriminator(torch.randn(2, 1, config.hr_crop, config.hr_crop))
    own = digest(networks.discriminator)
    networks.share_buffers()
    shared = digest(networks.discriminator)
    both = networks.generator, networks.discriminator
    with torch.no_grad():
        for parameter in (parameter for network in both for parameter in network.parameters()):
            parameter.add_(accelerator.process_index)
    networks.share_weights()
    accelerator.free_memory()
    accelerator.end_training()
    return {"own": own, "shared": shared, "weights": [digest(network) for network in both]}, None


def time_ranks(config, out):
    """Let rank 1 be twice as slow as rank 0."""
    accelerator = Accelerator()
    slowness = 1 + accelerator.process_index
    clock = iter([0.0, 0.010 * slowness])
    with mock.patch("srgan_dist.run.step_timer.time.perf_counter", lambda: next(clock, 1.0)):
        timed = StepTimer(accelerator)
        timed.step()
        numbers = timed.read(samples=8, seconds=1.0 * slowness, waited=0.5 * slowness)
    accelerator.end_training()
    return numbers, None


FAULTY_UPDATE = 3


def train_with_a_fault(config, out):
    """Train, each rank on a set of its own; the FAULT happens in the third update, on one rank only."""
    process_group.POLL_SECONDS, process_group.GRACE_SECONDS = 0.2, 0.5
    fault, rank, update, done = os.environ["FAULT"], int(os.environ["RANK"]), PretrainPhase.update, [0]
    shards = shutil.copytree(config.data.path, out / f"shards{rank}")

    def faulty(phase, batches):
        done[0] += 1
        if done[0] == FAULTY_UPDATE:
            if fault == "exception":
                if rank == 0:
                    time.sleep(1000)  # as over NCCL, where a rank waits for others in vain
                raise RuntimeError("a fault of ours")
            if fault == "disk" and rank == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            if fault == "shard" and rank == 1:
                for path in shards.glob("train-*.tar"):
                    os.truncate(path, 512)
            if fault == "memory" and rank == 1:
                torch.empty(2**42)
        return update(phase, batches)

    with mock.patch.object(PretrainPhase, "update", faulty):
        train(config.model_copy(update={"data": config.data.model_copy(update={"path": str(shards)})}))


TASKS = {
    "fault": train_with_a_fault,
    "train": train_both_phases,
    "batches": read_batches,
    "mortal": train_and_die,
    "separate": train_in_separate_directories,
    "buffers": share_batch_norm_buffers,
    "exact": read_exactly,
    "seen": note_what_is_seen,
    "disturbed": train_disturbed,
    "late": train_and_be_stopped_late,
    "speed": time_ranks,
}

if __name__ == "__main__":
    task, config, out = sys.argv[1:]
    os.fsync = lambda descriptor: None  # quicker; only a loss of power would show it
    out = Path(out)
    rank = int(os.environ.get("RANK", 0))
    with cli_errors():
        report, tensors = TASKS[task](load_config(config), out)
    (out / f"rank{rank}.json").write_text(json.dumps(report))
    if tensors and rank == 0:
        torch.save(tensors, out / "generator.pt")
