"""Score a run: accelerate launch launch/evaluate.py RUN SHARDS [--out DIR] [--splits valid test]"""

from srgan_dist.cli.evaluate import main

if __name__ == "__main__":
    main()
