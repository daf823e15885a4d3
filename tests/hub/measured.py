"""A result of ten samples that was measured on given weights."""

from __future__ import annotations

from result_dicts import make_result

from hf_mmcoa.evaluation.provenance import model_fingerprint

ROBUST = {
    "clean": "1111111110",
    "image/pgd-ce": "1111111000",
    "text/words/all": "1111111100",
    "multimodal/independent/all": "1111100000",
}


def result_of(model, **changes):
    """A result of ten samples, measured on these weights."""
    marks = {"specification": "spec", "model": model_fingerprint(model), "data": "squares"}
    return make_result(ROBUST, model="out", fingerprints=marks, batch_size=128, **changes)
