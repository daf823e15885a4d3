"""`hf-mmcoa demo` as a Hugging Face Space: the same page, for every visitor.

Push this folder to a Space, or run it here: python examples/space/app.py
"""

from __future__ import annotations

from hf_mmcoa.cli import main

# Two to compare, as Hub ids, e.g. ["--model", "openai/clip-vit-base-patch32", "--model", "user/robust-clip"].
# None: the tiny CLIP on digits and its robust twin, trained when the Space starts, in about two minutes.
MODELS: list[str] = []

if __name__ == "__main__":
    # A Space is reached from outside of its container, at port 7860.
    raise SystemExit(main(["demo", "--host", "0.0.0.0", "--port", "7860", *MODELS]))
