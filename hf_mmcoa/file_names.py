"""Names of the files in a model's folder, which training writes, the Hub part publishes and reports read."""

ARGUMENTS_FILE = "training_args.yaml"  # what repeats the run: `hf-mmcoa train --config` reads it
CARD_FILE = "README.md"
RESULTS_FOLDER = "results"  # result files, which the card is made from
ROBUSTNESS_FILE = "robustness.json"  # the results before and after training
PICTURE_FILE = "attacks.png"
FILE_LIST = "checkpoint_files.json"  # in a checkpoint: its files and their sizes
STATE_FILE = "trainer_state.json"  # in a checkpoint: the Trainer writes it last
WHAT_RAN = "ran"  # key of ARGUMENTS_FILE: what was resolved, for readers; no option
