"""Measure test-time defences on digits under static and adaptive attacks: one result file a defence.

    python examples/train_mmcoa.py --output_dir digits
    python examples/defend_at_test_time.py --model digits/pretrained --output results   # the undefended CLIP
    python examples/defend_at_test_time.py --model digits --output results              # the one trained by MMCoA

Their radii are those of the papers relative to the attack's, or were chosen on training rows (docs/test-time.md).
"""

import argparse
import sys
from pathlib import Path

from hf_mmcoa import load_benchmark
from hf_mmcoa.defences import RTPT, TTC, GaussianNoise, Quantise
from hf_mmcoa.evaluation import ThreatModel, evaluate_defence
from hf_mmcoa.evaluation.defended_results import defended_table
from hf_mmcoa.models.encoder import load_clip

DEFENCES = {
    "noise": GaussianNoise(sigma=0.2),
    "quantise": Quantise(levels=4),
    "ttc": TTC(epsilon=0.075, step_size=0.0375),
    "ttc-all": TTC(epsilon=0.075, step_size=0.0375, threshold=9.0),
    "r-tpt": RTPT(num_views=8, neighbours=3),
}


def main() -> int:
    """Measure every defence and print its accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a CLIP that knows digits")
    parser.add_argument("--output", required=True, help="folder for the result files")
    parser.add_argument("--defences", nargs="+", choices=list(DEFENCES), default=list(DEFENCES))
    parser.add_argument("--max_samples", type=int, default=60)
    parser.add_argument("--num_steps", type=int, default=10)
    parser.add_argument("--eot_draws", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    model, processor = load_clip(args.model)
    data = load_benchmark("digits", split="test")
    attacks = ("apgd-ce", "apgd-margin")
    spec = ThreatModel.preset("quick", epsilon=0.15, num_steps=args.num_steps, image_attacks=attacks)
    for name in args.defences:
        result = evaluate_defence(
            model,
            processor,
            data,
            DEFENCES[name],
            threat_model=spec,
            eot_draws=args.eot_draws,
            draws=args.draws,
            max_samples=args.max_samples,
            batch_size=20,
            output=Path(args.output, f"{Path(args.model).name}-{name}.json"),
            model_name=Path(args.model).name,
            dataset_name="digits/test",
            progress=False,
        )
        print(f"{result['model']} behind {result['defence']}\n{defended_table(result)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
