"""Fetch DeepRock-SR-2D and unpack it: python shards/download.py OUT [--from FILE]"""

from srgan_dist.cli.download import main

if __name__ == "__main__":
    main()
