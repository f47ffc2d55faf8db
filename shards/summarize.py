"""Show the contents of a packed data set: python shards/summarize.py OUT [--verify]"""

from srgan_dist.cli.summarize import main

if __name__ == "__main__":
    main()
