"""PSNR against blur and noise of LR: accelerate launch launch/robustness.py RUN [RUN ...] SHARDS"""

from srgan_dist.cli.robustness import main

if __name__ == "__main__":
    main()
