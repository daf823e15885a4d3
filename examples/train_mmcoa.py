"""Make a CLIP robust by MMCoA, measured before and after.

    python examples/train_mmcoa.py                                   # a tiny CLIP on digits: two minutes, no network
    python examples/train_mmcoa.py --model_name_or_path openai/clip-vit-base-patch32 --dataset cifar10
    accelerate launch examples/train_mmcoa.py --config my_run.yaml   # one process or many

Every field of `MMCoAConfig` is an option, every option a line of the YAML file. `hf-mmcoa train` is the same program.
"""

import sys

from hf_mmcoa.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
