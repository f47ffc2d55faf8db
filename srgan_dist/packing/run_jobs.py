"""All pixels of a build: jobs for sources or regions of them, run by any executor, and their results."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, groupby

from srgan_dist.data.manifest import shard_name
from srgan_dist.packing.assemble import assemble_all
from srgan_dist.packing.blocks import regions
from srgan_dist.packing.empty import contrasts, without_empty
from srgan_dist.packing.layout import place, write_skeleton
from srgan_dist.packing.pack import Facts, Job, Packed, pack
from srgan_dist.packing.pictures import Look, Picture, judge
from srgan_dist.packing.tiles import stored_dtype
from srgan_dist.utils.errors import UserError


class BuildError(UserError):
    """All faults of a source, one per line."""

    def __init__(self, faults):
        listed = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(
            f"{len(faults)} fault{'s' * (len(faults) != 1)} found, nothing was written:\n{listed}"
        )
        self.faults = faults


def decode_faults(sources, samples, options, run, progress):
    """Decode all pixels of the sources and return their faults."""
    progress = partial(progress, act="look for further faults")
    return _run(_jobs(sources, samples, options), run, progress).faults


def pack_all(sources, samples, tables, shards, dtype, options, directory, run, progress):
    """Write all shards into a BuildDirectory and complete the tables; returns the notes on the images.

    Raises BuildError with all faults of the pixels.
    """
    jobs = _jobs(sources, samples, options, directory, dtype)
    progress = partial(progress, act="pack images" if options.ndim == 2 else "pack regions")
    pack_images = _pack_plain if options.encoding == "npy" else _pack_encoded
    results = pack_images(jobs, tables, shards, directory, run, progress)
    return results.notes()


def leave_out_empty(sources, samples, options, run, progress):
    """Decode all blocks; returns (the samples of those that are not empty, notes on the others).

    Raises BuildError with all faults of the pixels, and where no block is left.

    `pack_all` reads the others a second time. Which blocks are empty depends on the median of their rock, and
    the places of the others on which are: to read once, every block would have to be written twice. This
    reading takes 15 % of a build (CPU time, 300^3 voxels in NPY), 27 % where it decompresses (TIFF, zlib).
    """
    jobs = _jobs(sources, samples, options, dtype=stored_dtype(sources, options.dtype))
    results = list(progress(run(contrasts, jobs), len(jobs), "look for empty blocks in regions"))
    if faults := list(dict.fromkeys(fault for fault, _ in results if fault)):
        raise BuildError(faults)
    found = list(chain.from_iterable(of_job for _, of_job in results))
    kept, notes = without_empty(sources, samples, found, options.min_contrast)
    if not kept:
        window = f", another window than {options.window}" if options.window else ""
        raise BuildError(
            [f"no block is left; give other volumes{window}, or min_contrast=0 ({'; '.join(notes)})"]
        )
    return kept, notes


def _jobs(sources, samples, options, directory=None, dtype=None):
    """Return a Job for every source, or in 3-D every region; without a BuildDirectory they only decode."""
    groups = []
    for i, group in groupby(samples, lambda sample: sample.source):
        group = list(group)
        itemsize = 4 if options.window else sources[i].hr.dtype.itemsize  # before the window: of floats
        groups += regions(group, itemsize) if options.ndim == 3 else [group]
    return [
        Job(
            sources[group[0].source],
            group,
            options.scale,
            options.ndim,
            options.seed,
            options.scanner,
            dtype,
            options.encoding,
            known=_known(directory, number, group),
        )
        for number, group in enumerate(groups)
    ]


def _known(directory, number, samples):
    """Return the Packed that an interrupted build recorded of a source, or None."""
    if not directory or number not in directory.known:
        return None
    contents, facts, looks = directory.known[number]
    if len(facts) != len(samples):
        return None
    return Packed(None, contents, [Facts(*each) for each in facts], list(map(Look.of, looks)))


def _pack_plain(jobs, tables, shards, directory, run, progress):
    """Write pixels directly to their places, which are known; returns Results."""
    for shard in chain(*shards.values()):
        write_skeleton(directory.set / shard.file, shard, place(shard))
    return _pack(_placed(jobs, tables, directory), tables, directory, run, progress)


def _pack_encoded(jobs, tables, shards, directory, run, progress):
    """Encode all images, then assemble the shards, as places depend on the bytes of all; returns Results."""
    jobs = [replace(job, spool=directory.spool / f"{number:06d}") for number, job in enumerate(jobs)]
    if all(job.known for job in jobs):  # then some may be in their shards already
        _enter(tables, jobs, [job.known.facts for job in jobs])
        for shard in chain(*shards.values()):
            place(shard)
        jobs = _placed(jobs, tables, directory)
    results = _pack(jobs, tables, directory, run, progress)
    directory.sync_journal()  # from here on spools are removed
    assemble_all(directory.set, list(chain(*shards.values())), jobs, results.facts, run)
    return results


def _placed(jobs, tables, directory):
    """Return the jobs with the places of their images in the shards."""
    places = {}
    for split, table in tables.items():
        for row in table:
            shard = directory.set / shard_name(split, row["shard"])
            places[row["key"].decode()] = shard, int(row["hr_offset"]), int(row["lr_offset"])
    return [replace(job, places=[places[sample.key] for sample in job.samples]) for job in jobs]


def _enter(tables, jobs, facts):
    """Enter the Facts of all images into the tables."""
    rows = {row["key"].decode(): row for table in tables.values() for row in table}
    for job, facts_of_job in zip(jobs, facts, strict=True):
        for sample, each in zip(job.samples, facts_of_job, strict=True):
            row = rows[sample.key]
            for name, value in each._asdict().items():
                if name in row.dtype.names:
                    row[name] = value


def _pack(jobs, tables, directory, run, progress):
    """Run all jobs and enter their facts into the tables; returns Results, or raises BuildError."""
    results = _run(jobs, run, progress, directory)
    if results.faults:
        raise BuildError(results.faults)
    _enter(tables, jobs, results.facts)
    return results


def _run(jobs, run, progress, directory=None):
    """Run all jobs and record their results in the journal; returns Results."""
    results = Results(jobs[0].ndim if jobs else 2, resumed=sum(job.known is not None for job in jobs))
    for number, (job, packed) in enumerate(zip(jobs, progress(run(pack, jobs), len(jobs)), strict=True)):
        results.add(job, packed)
        if directory and not job.known and not packed.fault:
            directory.record(number, [packed.contents, packed.facts, packed.looks])
    return results


@dataclass
class Results:
    """The results of all jobs."""

    ndim: int
    unusable: list = field(default_factory=list)  # faults of sources
    leaks: dict = field(default_factory=dict)  # (file, file of another split) -> what is the same in both
    constant: list = field(default_factory=list)  # names of pages or blocks
    repeated: list = field(default_factory=list)
    first_seen: dict = field(default_factory=dict)  # hash of a page or block -> (split, file, its name)
    facts: list = field(default_factory=list)  # of each job, those of its samples
    pictures: list = field(default_factory=list)  # Picture of each page or block
    resumed: int = 0  # jobs that an interrupted build had done

    def add(self, job, packed):
        """Add the result of one job; jobs come in their order, whatever the order of the work."""
        source = job.source
        self.facts.append(packed.facts)
        if packed.fault and packed.fault not in self.unusable:  # each region of a volume may have it
            self.unusable.append(packed.fault)
        for number, content in enumerate(packed.contents):
            name = job.name_of(number)
            if content is None:
                self.constant.append(name)  # blank slices are alike everywhere and are no sign of leakage
                continue
            path = source.hr.path
            split, other, first = self.first_seen.setdefault(content, (source.split, path, name))
            if split != source.split:
                leak = f"{name}: is in {source.split} and is the same picture as {first} in {split}"
                self.leaks.setdefault((path, other), []).append(leak)
            elif first != name:
                self.repeated.append(name)
        self.pictures += [
            Picture(source.rock, job.name_of(number), source.hr.dtype, look)
            for number, look in enumerate(packed.looks)
        ]

    @cached_property
    def judged(self):
        """(faults, notes) on the pictures, all of them."""
        return judge(self.pictures)

    @property
    def faults(self):
        faults = list(self.unusable)
        for first, *others in self.leaks.values():
            more = f", as are {len(others)} others of both files" if others else ""
            faults.append(f"{first}{more}; scores would be too good. Remove one of them")
        return faults + self.judged[0]

    def notes(self):
        notes, images = [], "images" if self.ndim == 2 else "blocks"
        if self.resumed:
            notes.append(
                f"an interrupted build had packed {self.resumed} of {len(self.facts)}"
                f" {'images' if self.ndim == 2 else 'regions'} already"
            )
        if self.constant:
            notes.append(f"{len(self.constant)} {images} have one grey level only, e.g. {self.constant[0]}")
        if self.repeated:
            notes.append(f"{len(self.repeated)} {images} repeat an earlier picture, e.g. {self.repeated[0]}")
        return notes + self.judged[1]
