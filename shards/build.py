"""Pack rock images into WebDataset tar shards: python shards/build.py SOURCE OUT [options]"""

from srgan_dist.cli.build import main

if __name__ == "__main__":
    main()
