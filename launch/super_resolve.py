"""Super-resolve images: python launch/super_resolve.py WEIGHTS INPUT OUTPUT"""

from srgan_dist.cli.upscale import main

if __name__ == "__main__":
    main()
