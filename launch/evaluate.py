"""Score a run; look at report.html: accelerate launch launch/evaluate.py RUN SHARDS [--out DIR]"""

from srgan_dist.cli.evaluate import main

if __name__ == "__main__":
    main()
