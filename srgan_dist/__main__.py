"""python -m srgan_dist VERB: the console command, for launchers that start modules."""

from srgan_dist.cli import main

if __name__ == "__main__":
    main()
