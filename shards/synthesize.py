"""Write synthetic rocks in DeepRock-SR's layout: python shards/synthesize.py OUT [options]"""

from srgan_dist.cli.synthesize import main

if __name__ == "__main__":
    main()
