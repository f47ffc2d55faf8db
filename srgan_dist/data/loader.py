"""Batches for training: prefetched by a thread, moved to the device as integers, made float there."""

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
import torch

from srgan_dist.data.augment import orient
from srgan_dist.data.degrade import degrade_crops
from srgan_dist.data.jitter import jitter_crops
from srgan_dist.data.noise import noise_at, seeds_of
from srgan_dist.data.prefetch import BatchPrefetcher, ShardPrefetcher
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import CropSampler, DatasetMixture, slots_of
from srgan_dist.data.value_range import to_network_range

PREFETCHED = 2  # batches that are filled, or being filled, ahead of the one in use


@dataclass
class Buffer:
    """Memory for one batch, reused; pinned where there is a GPU, so that it is copied asynchronously."""

    lr: torch.Tensor  # [B, 1, *[c] * ndim] of the set's dtype
    hr: torch.Tensor  # [B, 1, *[s*c] * ndim]
    orientations: torch.Tensor  # [B]
    slots: torch.Tensor  # [B], which fill the batch
    copied: torch.cuda.Event | None  # on a GPU: when it has copied the content


class TrainLoader:
    """Yields the batches of one rank from any update on.

    splits: [(split, weight)], all of one scale, pixel type and number of dimensions. batch_size: of all ranks
    together, who take equal shares of it. augment: "none", "flips" or "all", see `num_orientations`. bad: for
    each split the samples that others are substituted for; None: all are good. blocks: for each split the
    number of shards that are shuffled together; None: all. gradient_accumulation_steps: micro-batches of
    equal size in which a rank takes its share of an update. slot_offset: slots before those of update 0,
    where earlier updates had another batch_size; update u begins with slot slot_offset + u * batch_size.
    degradation: DegradationConfig of the LR crops; None: they are as they were packed. jitter: JitterConfig
    of LR and HR crops; None: none. streamed: StreamedCrops, from which crops are taken instead; `splits` then
    only tell what they are.
    """

    def __init__(
        self,
        splits,
        lr_crop,
        batch_size,
        seed,
        augment,
        rank,
        world_size,
        device,
        bad=None,
        blocks=None,
        gradient_accumulation_steps=1,
        noise=0,
        slot_offset=0,
        degradation=None,
        jitter=None,
        streamed=None,
    ):
        self.readers = [Reader(split) for split, _ in splits]
        bad, blocks = bad or [()] * len(splits), blocks or [None] * len(splits)
        self.samplers = [
            CropSampler(
                split.rows["lr_shape"],
                lr_crop,
                seed,
                augment,
                number,
                bad[number],
                split.rows["shard"],
                blocks[number],
            )
            for number, (split, _) in enumerate(splits)
        ]
        self.mixture = DatasetMixture([weight for _, weight in splits], seed)
        self.augment, self.seed, self.noise, self.degradation = augment, seed, noise, degradation
        self.jitter, self.streamed = jitter, streamed
        self.lr_crop, self.batch_size, self.slot_offset = lr_crop, batch_size, slot_offset
        self.rank, self.world_size, self.device = rank, world_size, device
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def batches(self, first_update):
        """Yield (lr, hr) for update first_update, first_update + 1, ... without end, in micro-batches.

        lr: [B, 1, c, c], hr: [B, 1, s*c, s*c] (of volumes [B, 1, c, c, c] and so on); float32 in [-1, 1], and
        beyond with jitter, on the device; B this rank's share of a micro-batch. With noise (lr, hr, noise [B,
        channels, s*c, s*c]).
        Close the generator when done: its threads stop then.
        """
        buffers = [self._buffer() for _ in range(PREFETCHED + 1)]
        reached = self.mixture.reached(self.slot_offset + first_update * self.batch_size).tolist()
        lag = self.gradient_accumulation_steps + PREFETCHED + 2
        stop = threading.Event()
        with contextlib.ExitStack() as stack:
            if self.streamed:
                stack.enter_context(self.streamed.opened(first_update, stop))
            else:
                self.shard_prefetchers = [
                    stack.enter_context(ShardPrefetcher(reader, sampler.blocks(slot), lag, stop))
                    for reader, sampler, slot in zip(self.readers, self.samplers, reached, strict=True)
                ]
            first = first_update * self.gradient_accumulation_steps
            prefetcher = stack.enter_context(BatchPrefetcher(self._fill, buffers, first, self.device))
            stack.callback(stop.set)  # before the threads are joined, for one may be waiting for a shard
            while True:
                buffer = prefetcher.next()
                lr, hr, orientations, slots = (
                    x.to(self.device, non_blocking=True)
                    for x in (buffer.lr, buffer.hr, buffer.orientations, buffer.slots)
                )
                if buffer.copied:
                    buffer.copied.record()
                if self.augment != "none":
                    lr, hr = orient(lr, orientations), orient(hr, orientations)
                if self.degradation:
                    lr = degrade_crops(lr, self.seed, slots, self.degradation)
                batch = to_network_range(lr), to_network_range(hr)
                if self.jitter:
                    jitter_crops(batch, self.seed, slots, self.jitter)
                if self.noise:
                    sides = hr.shape[2:]
                    batch += (noise_at(seeds_of(self.seed, slots), [0] * len(sides), sides, self.noise),)
                prefetcher.release(buffer)
                yield batch

    def _buffer(self):
        pinned = self.device.type == "cuda"
        count = self.batch_size // (self.world_size * self.gradient_accumulation_steps)
        lr, hr = self.readers[0].empty_batch(count, self.lr_crop, pinned)
        # blocking: the thread that waits for it sleeps
        copied = torch.cuda.Event(blocking=True) if pinned else None
        orientations, slots = (torch.empty(count, dtype=torch.int64, pin_memory=pinned) for _ in range(2))
        return Buffer(lr, hr, orientations, slots, copied)

    def _fill(self, buffer, number):
        """Fill a buffer with micro-batch `number` of the run."""
        if buffer.copied:
            buffer.copied.synchronize()  # returns at once where nothing was recorded yet
        update, micro_batch = divmod(number, self.gradient_accumulation_steps)
        slots = slots_of(
            update, self.rank, self.world_size, self.batch_size, self.gradient_accumulation_steps, micro_batch
        )
        slots += self.slot_offset
        orientations = buffer.orientations.numpy()
        buffer.slots.numpy()[:] = slots
        if self.streamed:
            return self.streamed.fill(slots, buffer.lr.numpy(), buffer.hr.numpy(), orientations)
        sets = zip(
            self.samplers, self.readers, self.shard_prefetchers, self.mixture.split(slots), strict=True
        )
        for sampler, reader, prefetcher, (places, own_slots) in sets:
            # Block by block: a large batch may need more of them than the cache holds
            while len(own_slots):
                prefetcher.reach(int(own_slots[0]), number)
                count = int(np.searchsorted(own_slots, prefetcher.end))
                crops = sampler.crops(own_slots[:count])
                reader.batch(crops, buffer.lr, buffer.hr, places[:count])
                orientations[places[:count]] = crops.orientations
                places, own_slots = places[count:], own_slots[count:]
