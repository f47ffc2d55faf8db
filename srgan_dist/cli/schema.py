"""Print the JSON schema of a config, with which editors complete and check YAML files: srgan-dist schema"""

import argparse
import json

from srgan_dist.utils.errors import cli_errors


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Print the JSON schema of a config. Editors use it where a YAML file begins with the line"
        " `# yaml-language-server: $schema=schema.json`.",
    )
    parser.parse_args(argv)

    from srgan_dist.config import Config

    print(json.dumps(Config.model_json_schema(), indent=1))
