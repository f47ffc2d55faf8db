"""torchrun with stop and resume: python launch/ranks.py --nproc_per_node 8 launch/train.py CONFIG"""

from srgan_dist.runtime.ranks import main

if __name__ == "__main__":
    main()
