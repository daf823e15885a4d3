"""Train a CLIP to be robust by MMCoA, and measure its robustness before and after.

    python examples/train_mmcoa.py                                   # a tiny CLIP on digits: five minutes, no network
    python examples/train_mmcoa.py --model_name_or_path openai/clip-vit-base-patch32 --dataset cifar10
    accelerate launch examples/train_mmcoa.py --config my_run.yaml   # one process or several

Every field of `MMCoAConfig` is an option, on the command line or in the YAML file. `hf-mmcoa train` does the same.
"""

import sys

from hf_mmcoa.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
