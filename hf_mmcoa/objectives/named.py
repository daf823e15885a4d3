"""The objective that a configuration names, as an object."""

from __future__ import annotations

from typing import Any

from . import (
    AGFT,
    FARE,
    LEAF,
    MAT,
    PMGAFT,
    QTAFT,
    SAFT,
    TGAZSR,
    AdvFLYP,
    Clean,
    FAREAndLEAF,
    MMCoA,
    Objective,
    SimCLIP,
    TeCoA,
)


def named_objective(args: Any, image_size: int = 224) -> Objective:
    """Return the objective that `args.objective` names, with the fields of `args` that are its own.

    Args:
        args: an `MMCoAConfig`, or anything else with its fields.
        image_size: height and width of the images that the model reads, in pixels.

    Raises:
        ValueError: if a field is out of range.
    """
    if args.objective == "mmcoa":
        return MMCoA(
            lambda_image=args.lambda_image,
            lambda_text=args.lambda_text,
            lambda_clean=args.lambda_clean,
            lambda_class=args.lambda_class,
            lambda_distill=args.lambda_distill,
            text_adversary=args.text_adversary,
            accumulate_attack_gradients=args.accumulate_attack_gradients,
        )
    if args.objective in ("fare", "fare+leaf"):
        fare = FARE(clean_weight=args.clean_weight, trades=args.trades)
        return fare if args.objective == "fare" else FAREAndLEAF(fare=fare)
    named: dict[str, Objective] = {
        "clean": Clean(),
        "tecoa": TeCoA(),
        "pmg-aft": PMGAFT(release_scaling=args.release_scaling),
        "tga-zsr": TGAZSR(image_size=image_size),
        "leaf": LEAF(),
        "mat": MAT(),
        "mat+": MAT(one_to_many=True),
        "advflyp": AdvFLYP(),
        "saft": SAFT(image_size=image_size),
        "sim-clip": SimCLIP(),
        "qt-aft": QTAFT(),
        "agft": AGFT(),
    }
    return named[args.objective]
