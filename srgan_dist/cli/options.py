"""Options that several verbs have, and how one refuses its old name."""

import argparse

from srgan_dist.storage.cache import DEFAULT_GIB


def add_cache_options(parser):
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder for copies of remote shards (default: in the user's cache folder)",
    )
    parser.add_argument(
        "--cache-gib",
        type=float,
        default=DEFAULT_GIB,
        metavar="N",
        help="size limit of the copies (default: %(default)s)",
    )


def add_splits(parser):
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["valid", "test"],
        choices=["train", "valid", "test"],
        help="which splits to score, of those that SHARDS has (default: valid test)",
    )


def add_self_ensemble(parser):
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="take the mean over 8 orientations of LR: more accurate, for 8 times the work",
    )


def add_renamed_option(parser, old, new):
    """Make the old name of an option an error that names the new one."""

    class Renamed(argparse.Action):
        def __call__(self, *_):
            parser.error(f"{old} is called {new} now")

    parser.add_argument(old, action=Renamed, help=argparse.SUPPRESS)
