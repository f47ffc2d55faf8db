"""Make a WebDataset of pairs trainable where it is: python shards/index.py OUT --train SHARDS [options]"""

from srgan_dist.cli.index import main

if __name__ == "__main__":
    main()
