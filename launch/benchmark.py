"""Measure this machine: python launch/benchmark.py loader|step|gpu|tables [options]"""

from srgan_dist.cli.benchmark import main

if __name__ == "__main__":
    main()
