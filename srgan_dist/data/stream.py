"""Crops out of shards that are streamed with the webdataset library, for sets that cannot be indexed.

Each rank has some workers, threads with a stream each, and takes samples from them in turn. An epoch shuffles
all shards by the seed and deals them out to the streams of all ranks; inside a stream samples are shuffled in
a buffer. A stream begins its next epoch when its own shards are read, whether or not the others' are. So the
order follows from the seed, the number of ranks, the workers, the buffer, and the update at which the loader
begins.
"""

import contextlib
import itertools
import queue
import random
import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from srgan_dist.data.augment import num_orientations
from srgan_dist.data.member_image import read_member
from srgan_dist.data.sampler import corners_of, orientations_of, splitmix64
from srgan_dist.storage.cache import Cancelled
from srgan_dist.storage.encoding import EncodingError
from srgan_dist.storage.tar_stream import TarStream
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import raise_out_of_memory

READY = 4  # decoded pairs that wait in each worker


def stream_samples(addresses, buffer=1, shuffled_by=None, stop=None):
    """Yield the samples of shards as webdataset groups them, {"__key__", "__url__", field: bytes}.

    buffer: samples that are shuffled together, by the seed `shuffled_by`; None: in their order. Raises
    UserError that names a shard which cannot be read to its end, and Cancelled when the Event `stop` is set.
    """
    reached = None  # the TarStream that is read

    def opened(shards):
        nonlocal reached
        for shard in shards:
            with contextlib.closing(TarStream(shard["url"], stop)) as reached:
                yield shard | {"stream": reached}
                reached.finish()

    stages = [webdataset.SimpleShardList(list(addresses)), opened, tar_file_expander, group_by_keys]
    if shuffled_by is not None:
        stages.append(webdataset.shuffle(buffer, initial=buffer, rng=random.Random(shuffled_by)))
    try:
        yield from webdataset.DataPipeline(*stages)
    except Exception as error:  # webdataset has added stream and shard to its arguments
        if reached and reached.error:
            raise reached.error from None
        if not reached or isinstance(error, (UserError, Cancelled)):
            raise
        raise_out_of_memory(error, f"a sample of {reached.address}")
        reached.finish()  # names what is wrong with the tar
        raise UserError(
            f"{reached.address} cannot be read as a WebDataset ({error.args[0]}); copy it again"
        ) from None
    finally:
        if reached:
            reached.close()  # a generator that an error has left suspended would do so at some later time


class Pair(NamedTuple):
    """A decoded sample."""

    lr: np.ndarray  # [H, W] or [D, H, W], uint8 or uint16
    hr: np.ndarray  # scale times that size
    name: str  # shard and key, for errors


@dataclass(frozen=True)
class PairFormat:
    """What the pairs of a set are."""

    hr: str  # fields
    lr: str
    ndim: int
    scale: int
    dtype: np.dtype

    def decode(self, sample):
        """Return the Pair of a sample; raises UserError that names it where it does not fit the set."""
        name = f"{sample['__url__']}: sample {sample['__key__']!r}"
        images = {}
        for field in (self.hr, self.lr):
            if field not in sample:
                fields = ", ".join(key for key in sample if not key.startswith("__"))
                raise UserError(f"{name} has no {field}; it has {fields}. Correct it, or leave its shard out")
            try:
                images[field] = read_member(field, sample[field])
            except EncodingError as error:
                raise UserError(f"{name} has a {field} that cannot be used: {error}") from None
        hr, lr = images[self.hr], images[self.lr]
        if not (hr.dtype == lr.dtype == self.dtype):
            raise UserError(
                f"{name} has HR of {hr.dtype} and LR of {lr.dtype}, but the set has {self.dtype}; correct it,"
                " or leave its shard out"
            )
        if lr.ndim != self.ndim or hr.shape != tuple(self.scale * size for size in lr.shape):
            sizes = " and LR of ".join("x".join(map(str, side.shape)) for side in (hr, lr))
            raise UserError(
                f"{name} has HR of {sizes} pixels; the set is {self.ndim}-D, and HR is {self.scale} times LR"
            )
        return Pair(lr, hr, name)


class StreamedCrops:
    """The crops that one rank takes out of streamed shards; `opened` around every `fill`.

    shards: addresses of all. workers: streams of this rank. buffer: samples that each shuffles together.
    """

    def __init__(self, shards, pairs, lr_crop, seed, augment, rank, world_size, workers, buffer):
        self.shards, self.pairs, self.lr_crop, self.seed = list(shards), pairs, lr_crop, seed
        self.rank, self.world_size, self.workers, self.buffer = rank, world_size, workers, buffer
        self.num_orientations = num_orientations(augment, pairs.ndim)

    @contextlib.contextmanager
    def opened(self, first_update, stop):
        """Start the streams of a loader that begins at an update; the Event `stop` ends them."""
        self.stop, self.turns = stop, None
        queues = [queue.Queue(READY) for _ in range(self.workers)]
        threads = [
            threading.Thread(
                target=self._run, args=(worker, first_update, ready), name="stream-shards", daemon=True
            )
            for worker, ready in enumerate(queues)
        ]
        self.turns = itertools.cycle(zip(queues, threads, strict=True))
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def fill(self, slots, lr, hr, orientations):
        """Cut the next samples into crops, not yet oriented: lr [B, 1, *[c] * n], hr [B, 1, *[s*c] * n],
        uint8 or uint16; orientations [B]. Corners and orientations follow from seed and slot, slots [B].
        """
        draws = splitmix64(splitmix64(np.uint64(self.seed)) ^ np.asarray(slots, np.uint64))
        orientations[:] = orientations_of(draws, self.num_orientations)
        for b in range(len(slots)):
            pair = self._next()
            counts = np.array([pair.lr.shape], np.int64) - self.lr_crop + 1
            if counts.min() < 1:
                raise UserError(
                    f"{pair.name} has LR of {'x'.join(map(str, pair.lr.shape))} pixels, less than"
                    f" data.lr_crop={self.lr_crop}; use a smaller one, or leave its shard out"
                )
            (corner,) = corners_of(draws[b : b + 1], counts.astype(np.uint64))
            for image, out, scale in ((pair.lr, lr, 1), (pair.hr, hr, self.pairs.scale)):
                out[b, 0] = image[
                    tuple(slice(scale * start, scale * (start + self.lr_crop)) for start in corner.tolist())
                ]

    def shards_of(self, worker, first_update, epoch):
        """Return the shards that a worker streams in an epoch, and the seed of its shuffling."""
        order = np.random.default_rng([self.seed, first_update, epoch]).permutation(len(self.shards))
        own = order[self.rank :: self.world_size][worker :: self.workers]
        place = [self.seed, first_update, epoch, self.rank * self.workers + worker]
        return [self.shards[i] for i in own], int(np.random.default_rng(place).integers(2**62))

    def _run(self, worker, first_update, ready):
        try:
            for epoch in itertools.count():
                shards, seed = self.shards_of(worker, first_update, epoch)
                samples = stream_samples(shards, self.buffer, seed, self.stop)
                with contextlib.closing(samples):
                    for sample in samples:
                        self._put(ready, self.pairs.decode(sample))
        except Cancelled:
            return
        except BaseException as error:  # the reading would wait for a thread that ended silently
            with contextlib.suppress(Cancelled):
                self._put(ready, error)

    def _put(self, ready, item):
        while not self.stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.2)
        raise Cancelled

    def _next(self):
        """Return the next Pair of the worker whose turn it is; raises its error."""
        ready, thread = next(self.turns)
        while not self.stop.is_set():
            alive = thread.is_alive()
            with contextlib.suppress(queue.Empty):
                item = ready.get(timeout=0.2)
                if isinstance(item, BaseException):
                    raise item
                return item
            assert alive, "a thread that streams shards has died"
        raise Cancelled
