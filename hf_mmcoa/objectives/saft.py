"""The objective of SAFT, semantic-aware adversarial fine-tuning (arXiv:2602.12461)."""

from __future__ import annotations

from dataclasses import dataclass

from .tga_zsr import TGAZSR


@dataclass(frozen=True, kw_only=True)
class SAFT(TGAZSR):
    """Classify adversarial images among several captions of every class: TGA-ZSR with an ensemble of captions.

        L = mean_k CE(s I' P_k^T, y) + adv_weight * mean ||A(f; x') - A(f0; x)||_2
            + clean_weight * mean ||A(f; x) - A(f0; x)||_2

    P_k holds the k-th caption of every class. A is TGA-ZSR's `attention_map`, of the cosines' mean over the captions of
    the sample's own class. The image attack raises the mean over k of the cross-entropy. The image encoder trains.

    Args:
        image_size: height and width to which maps are resized, in pixels: that of the model.
        adv_weight: weight of the attention term on attacked images; 0.08 in the authors' code.
        clean_weight: weight of the attention term on clean images; 0.05 in the authors' code.

    Raises:
        ValueError: if a weight is negative.
    """

    needs_labels = False
    reads_captions = True
