from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from squares import CLASS_NAMES, KNOWN, UNSEEN, squares

from hf_mmcoa.attacks.engine import LossAttack
from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.cli import main
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.evaluation import ThreatModel, evaluate_retrieval, evaluate_robustness, load_result, recalls, retrieval
from hf_mmcoa.evaluation import pairs as pairs_module
from hf_mmcoa.evaluation.pairs import Pairs, own_against_others, ranks_of_best, read_pairs
from hf_mmcoa.evaluation.recalls import retrieval_table
from hf_mmcoa.evaluation.retrieval import load_retrieval
from hf_mmcoa.evaluation.statistics import wilson_interval
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.substitutes.synonyms import SynonymTable

SPEC = ThreatModel.preset("quick", epsilon=0.05, num_steps=5)
OTHER = {"cat": "feline", "dog": "hound", "car": "auto"}


def captioned(rows: int = 24, captions: int = 1, column: str = "text") -> datasets.Dataset:
    """Squares, each with the prompt of its class, or a list of two prompts."""
    data = squares(rows)
    names = [CLASS_NAMES[label] for label in data["label"]]
    prompts = class_prompts(names) if captions == 1 else [class_prompts([name, OTHER[name]]) for name in names]
    return data.remove_columns("label").add_column(column, prompts)


pytestmark = pytest.mark.filterwarnings("ignore:.*distinct prompts")


# By hand


def test_a_rank_counts_wrong_answers_that_are_not_behind():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    gallery = torch.tensor([[0.9, 0.3], [0.8, 0.9], [0.9, 0.1], [0.1, 0.3]])
    # Query 0 scores .9 .8 .9 .1: item 0 ties with 2 and loses. Query 1 scores .3 .9 .1 .3: of 0 and 2 the best is 0,
    # behind 1 and tied with 3; its own other item does not count.
    assert ranks_of_best(queries, gallery, [[0], [0, 2]]) == [2, 3]
    assert ranks_of_best(queries, gallery, [[3], [1, 3]]) == [4, 1]


def test_equal_scores_and_scores_that_are_no_numbers_find_nothing():
    assert ranks_of_best(torch.ones(2, 1), torch.ones(5, 1), [[0], [1, 2]]) == [5, 4]
    assert ranks_of_best(torch.full((1, 1), torch.nan), torch.ones(5, 1), [[4]]) == [5]
    assert ranks_of_best(torch.ones(1, 1), torch.tensor([[1.0], [torch.nan]]), [[0]]) == [2]


def test_blocks_do_not_change_ranks(monkeypatch):
    queries, gallery = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    relevant = [[row, (row + 3) % 9] for row in range(9)]
    whole = ranks_of_best(queries, gallery, relevant)
    monkeypatch.setattr(pairs_module, "QUERIES_PER_BLOCK", 2)
    assert ranks_of_best(queries, gallery, relevant) == whole != [1] * 9


def test_the_best_own_caption_is_class_zero():
    logits = torch.tensor([[1.0, 3.0, 2.0, 5.0], [1.0, 3.0, 2.0, 5.0]])
    inf = float("inf")
    expected = [[3.0, -inf, -inf, 2.0, 5.0], [5.0, 1.0, 3.0, 2.0, -inf]]
    assert own_against_others(logits, [[0, 1], [3]]).tolist() == expected


def test_worst_cases_by_hand():
    eye = torch.eye(3)
    swapped, turned = eye[[1, 0, 2]], eye[[1, 2, 0]]
    pairs = Pairs(rows=None, rows_at="native", row_ids=[7, 8, 9], captions=["a", "b", "c"], captions_of=[[0], [1], [2]])
    images = {
        "clean": eye,
        "image/one|0": swapped,
        "image/two|0": eye[[0, 2, 1]],
        "text/words/blind/one|0": eye,
        "text/words/blind/two|0": turned,
    }
    ranks = recalls.all_ranks(images, {"clean": eye, "text/words/blind": turned}, pairs, ("independent", "adaptive"))
    # A wrong unit vector ties with nothing but 0 with its own: rank 3, behind one and tied with the other.
    assert ranks["clean/image_to_text"] == ranks["clean/text_to_image"] == [1, 1, 1]
    assert ranks["image/one/image_to_text"] == [3, 3, 1] and ranks["image/two/image_to_text"] == [1, 3, 3]
    assert ranks["text/words/blind/text_to_image"] == [3, 3, 3]
    # Turned texts are e1, e2, e0: swapped images (e1, e0, e2) give 1, 3, 3, the others (e0, e2, e1) give 3, 1, 3.
    assert ranks["multimodal/independent/blind/image_to_text"] == [3, 3, 3]
    # Adaptive: only the images made for these texts count; the worst of turned (all found) and eye against turned.
    assert ranks["multimodal/adaptive/blind/text_to_image"] == [3, 3, 3]
    images["text/words/blind/one|0"] = turned
    again = recalls.all_ranks(images, {"clean": eye, "text/words/blind": turned}, pairs, ("independent", "adaptive"))
    assert again["multimodal/adaptive/blind/text_to_image"] == [1, 1, 1]
    assert again["multimodal/independent/blind/text_to_image"] == ranks["multimodal/independent/blind/text_to_image"]
    numbers = recalls.recalls(ranks, pairs.captions_of)
    assert numbers["clean_image_to_text_recall_at_1"] == 1
    assert numbers["attacks/image/one/image_to_text_recall_at_1"] == pytest.approx(1 / 3)
    assert numbers["image_image_to_text_recall_at_1"] == 0  # each query falls to one of the two
    assert numbers["image_image_to_text_recall_at_1_interval"] == wilson_interval(0, 3)
    assert numbers["image_image_to_text_recall_at_5"] == 1


def test_captions_of_an_image_and_images_of_a_caption_are_one_cluster():
    """Twenty images with five captions each are twenty, not a hundred; images that share a caption are one."""
    ranks = {"clean/image_to_text": [1] * 10 + [9] * 10, "clean/text_to_image": [1] * 50 + [9] * 50}
    own = [[5 * image + place for place in range(5)] for image in range(20)]
    numbers = recalls.recalls(ranks, own)
    assert numbers["clean_image_to_text_recall_at_1_interval"] == wilson_interval(10, 20)
    low, high = numbers["clean_text_to_image_recall_at_1_interval"]
    assert high - low > 1.9 * np.diff(wilson_interval(50, 100))
    low, high = numbers["clean_text_to_image_recall_at_10_interval"]
    assert [low, high] == pytest.approx([0.025 ** (1 / 20), 1])  # all of twenty images
    paired = [[*own[image], *own[image ^ 1]] for image in range(20)]  # two images share their ten captions
    low, high = recalls.recalls(ranks, paired)["clean_image_to_text_recall_at_10_interval"]
    assert [low, high] == pytest.approx([0.025 ** (1 / 10), 1])
    for wrong in (own[:-1], [[0]] * 19 + [[100]], [[0]] * 19 + [[-1]]):
        with pytest.raises(ValueError, match="`captions_of` must name captions of 20 images, each in 0 to 99"):
            recalls.recalls(ranks, wrong)


# On a trained model


@pytest.mark.few(1)
@pytest.mark.parametrize("candidates", [KNOWN, UNSEEN], ids=["known", "unseen"])
def test_with_one_caption_a_class_it_is_zero_shot_classification(model, processor, dataset, candidates):
    """Two evaluators, one answer: captions that are the class prompts, as a gallery of three."""
    spec = ThreatModel(
        epsilon=0.03,
        num_steps=5,
        random_start=False,
        image_attacks=("pgd-ce", "pgd-margin"),
        multimodal_attacks=("independent", "adaptive"),
        skip_fallen=False,
        text_adversaries=("blind",),
    )
    zero_shot = evaluate_robustness(
        model, processor, dataset, threat_model=spec, candidates=candidates, sanity=False, progress=False
    )
    found = evaluate_retrieval(model, processor, captioned(), spec, candidates=candidates, batch_size=7, progress=False)
    assert found["num_captions"] == 3
    for threat in ("clean", "image", "text", "multimodal"):
        assert found[f"{threat}_image_to_text_recall_at_1"] == zero_shot[f"{threat}_accuracy"]
    for attack, outcome in zero_shot["outcomes"].items():
        assert "".join(str(int(rank == 1)) for rank in found["ranks"][f"{attack}/image_to_text"]) == outcome
    assert 0 < found["image_image_to_text_recall_at_1"] < found["clean_image_to_text_recall_at_1"]
    assert 0 < found["multimodal_image_to_text_recall_at_1"] < found["text_image_to_text_recall_at_1"]


def test_attacks_lower_recall_and_the_worst_case_is_the_lowest(model, processor):
    found = evaluate_retrieval(model, processor, captioned(), SPEC, candidates=UNSEEN, progress=False)
    for direction in ("image_to_text", "text_to_image"):
        recall = {t: found[f"{t}_{direction}_recall_at_1"] for t in ("clean", "image", "text", "multimodal")}
        assert recall["multimodal"] <= min(recall["image"], recall["text"])
        assert recall["image"] < recall["clean"] and recall["text"] < recall["clean"]
        low, high = found[f"image_{direction}_recall_at_1_interval"]
        assert low <= recall["image"] <= high
    assert found["image_image_to_text_recall_at_1"] < found["image_image_to_text_recall_at_5"] == 1  # three captions
    assert all(finding["passed"] for finding in found["sanity"]) and len(found["sanity"]) == 3
    assert found["adv_captions"]["text/words/blind"][0] == "This is a photo of a kitty"


def test_any_of_several_captions_is_a_hit(model, processor):
    found = evaluate_retrieval(
        model, processor, captioned(captions=2, column="texts"), SPEC, attacks=("clean",), progress=False
    )
    assert found["num_samples"] == 24 and found["num_captions"] == 6
    assert found["captions"][:2] == class_prompts(["cat", "feline"]) and found["captions_of"][:2] == [[0, 1], [2, 3]]
    assert len(found["ranks"]["clean/image_to_text"]) == 24 and len(found["ranks"]["clean/text_to_image"]) == 6
    # Taking the first caption alone would leave the second as a wrong answer that is hardly ever behind.
    assert found["clean_image_to_text_recall_at_1"] > 0.5


@pytest.mark.parametrize(("attacks", "sets"), [(("independent",), 1), (("independent", "adaptive"), 2)])
def test_adaptive_attacks_are_run_against_the_attacked_captions(model, processor, attacks, sets, monkeypatch):
    logits, seen = retrieval.zero_shot_logits, []

    def recording(image_embeds, text_embeds, scale):
        seen.append(text_embeds)
        return logits(image_embeds, text_embeds, scale)

    monkeypatch.setattr(retrieval, "zero_shot_logits", recording)
    spec = ThreatModel.preset("quick", num_steps=1, multimodal_attacks=attacks)
    evaluate_retrieval(model, processor, captioned(6), spec, candidates=UNSEEN, progress=False)
    assert len({id(texts) for texts in seen}) == sets


def test_restarts_and_temperature_reach_the_attack(model, processor):
    def loss_after(**fields):
        spec = ThreatModel.preset("quick", epsilon=0.05, num_steps=0, **fields)
        found = evaluate_retrieval(model, processor, captioned(6), spec, attacks=("image",), progress=False)
        detail = found["sanity"][1]["detail"]
        return float(detail.split()[1]), float(detail.split()[3])

    before, after = loss_after()
    assert loss_after(restarts=8)[0] == before and loss_after(restarts=8)[1] > after
    assert loss_after(temperature=1e-6)[0] == pytest.approx(1.0986, abs=1e-3)  # ln 3: all captions look the same


def test_several_sources_have_numbers_of_their_own(model, processor):
    sources = {"known": KNOWN, "unseen": UNSEEN}
    spec = ThreatModel.preset("standard", epsilon=0.05, num_steps=3)
    found = evaluate_retrieval(model, processor, captioned(6), spec, candidates=sources, progress=False)
    assert set(found["adv_captions"]) == {"text/words/blind", "text/words/blind:unseen"}
    assert "multimodal_unseen_text_to_image_recall_at_10" in found
    assert "attacks/multimodal/adaptive/blind:unseen/image_to_text_recall_at_1" in found
    assert set(found["attack_spec"]["candidates"]) == {"known", "unseen"}


def test_it_repeats_itself_and_leaves_the_model_as_it_was(model, processor):
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    one, two = (evaluate_retrieval(model, processor, captioned(6), SPEC, progress=False) for _ in range(2))
    assert one == two and model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    other = evaluate_retrieval(
        model, processor, captioned(6), ThreatModel.preset("quick", epsilon=0.05, num_steps=5, seed=1), progress=False
    )
    assert other["fingerprints"]["specification"] != one["fingerprints"]["specification"] and other["seed"] == 1


def test_the_file_is_the_result_and_is_not_replaced_unasked(model, processor, tmp_path):
    path = tmp_path / "retrieval.json"
    found = evaluate_retrieval(
        model, processor, captioned(12), SPEC, max_samples=6, output=path, progress=False, model_name="m"
    )
    assert json.loads(path.read_text()) == found
    assert found["num_samples"] == 6 == len(found["row_ids"]) and found["model"] == "m" and found["task"] == "retrieval"
    assert ThreatModel.from_dict(found["attack_spec"]).skip_fallen is False and "torch" in found["versions"]
    assert load_retrieval(path) == found
    with pytest.raises(ValueError, match="overwrite=True"):
        evaluate_retrieval(model, processor, captioned(12), SPEC, output=path)
    evaluate_retrieval(
        model, processor, captioned(6), SPEC, attacks=("clean",), output=path, overwrite=True, progress=False
    )
    assert json.loads(path.read_text())["attacks"] == ["clean"]
    with pytest.raises(ValueError, match="no result of `evaluate_robustness`"):
        load_result(path)


def test_an_attack_that_does_nothing_is_noticed(model, processor, monkeypatch):
    class Nothing:
        def __call__(self, images, loss_fn, generator=None):
            return images.clone()

    idle = LossAttack(attack=Nothing(), loss=class_loss)
    monkeypatch.setattr(retrieval.factory, "image_attack", lambda name, spec: idle)
    with pytest.warns(UserWarning, match="raises the loss"):
        found = evaluate_retrieval(model, processor, captioned(6), SPEC, attacks=("image",), progress=False)
    assert [finding["check"] for finding in found["sanity"] if not finding["passed"]] == [
        "image/pgd-ce: raises the loss"
    ]


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_captions_beyond_the_budget_are_noticed(model, processor, monkeypatch):
    monkeypatch.setattr("hf_mmcoa.attacks.bert_attack.change_cost", lambda place, substitute: 1)
    monkeypatch.setattr("hf_mmcoa.attacks.text_embedding.shorten", lambda vectors, radius, dim: vectors)
    spec = {"epsilon": 0.05, "num_steps": 2, "multimodal_attacks": ("co-attack", "sga", "joint"), "rho": 0.1}
    table = SynonymTable({word: (f"small red {other}",) for word, other in OTHER.items()})
    spec = ThreatModel.preset("quick", text_attacks=("words", "embedding"), **spec)
    found = evaluate_retrieval(model, processor, captioned(6), spec, candidates=table, progress=False)
    failed = {finding["check"] for finding in found["sanity"] if finding["passed"] is False}
    blind = {f"{name}/blind" for name in ("text/words", "text/embedding", "multimodal/co-attack")}
    assert failed == {f"{name}: within its budget" for name in blind | {"multimodal/sga/own", "multimodal/joint/all"}}


@pytest.mark.slow
def test_every_attack_of_the_strong_preset_is_run(model, processor):
    spec = ThreatModel.preset("strong", epsilon=0.05, num_steps=2, restarts=2, num_text_steps=2)
    data = captioned(6)
    found = evaluate_retrieval(model, processor, data, spec, candidates=KNOWN, progress=False)
    expected = ["clean", *(f"image/{name}" for name in spec.image_attacks)]
    expected += ["text/words/blind", "text/characters/blind", "text/embedding/blind"]
    adversaries = {"co-attack": "blind", "sga": "own", "joint": "all"}
    expected += [f"multimodal/{name}/{adversaries.get(name, 'blind')}" for name in spec.multimodal_attacks]
    assert {name.rpartition("/")[0] for name in found["ranks"]} == set(expected)
    assert (
        all(finding["passed"] for finding in found["sanity"]) and found["attack_spec"]["image_attacks"][-1] == "strong"
    )
    # The joint attack answers every image with its worst captions: nothing that takes one list for all does more harm.
    joint = found["ranks"]["multimodal/joint/all/image_to_text"]
    assert all(a >= b for a, b in zip(joint, found["ranks"]["text/words/blind/image_to_text"], strict=True))
    assert found["adv_captions"].keys() == {"text/words/blind", "text/characters/blind"}


def test_an_image_with_several_captions_meets_attacks_that_do_not_know_the_row(model, processor):
    spec = ThreatModel(epsilon=0.3, num_steps=5, image_attacks=("strong", "pgd-ce"), multimodal_attacks=("sga",))
    found = evaluate_retrieval(
        model, processor, captioned(6, captions=2, column="texts"), spec, candidates=KNOWN, progress=False
    )
    ranks = found["ranks"]["image/strong/image_to_text"]
    assert sum(rank > 1 for rank in ranks) > sum(rank > 1 for rank in found["ranks"]["clean/image_to_text"])
    assert len(found["ranks"]["multimodal/sga/own/text_to_image"]) == 6


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(model, processor, tmp_path, monkeypatch):
    def evaluate(path):
        return evaluate_retrieval(
            model, processor, captioned(12), SPEC, candidates=KNOWN, batch_size=4, output=path, progress=False
        )

    whole, calls = evaluate(tmp_path / "whole.json"), []
    record = retrieval._Batch.record

    def interrupted(self):
        calls.append(self.start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(self)

    monkeypatch.setattr(retrieval._Batch, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "other.json")
    assert evaluate(tmp_path / "other.json") == whole and calls == [0, 4, 8, 8]
    assert (tmp_path / "other.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert evaluate(tmp_path / "other.json") == whole and len(calls) == 4  # the file answers


def test_long_captions_are_cut_off_with_one_warning(model, processor):
    data = captioned(4).map(lambda row: {"text": row["text"] + " and a dog" * 10})
    with pytest.warns(UserWarning, match="3 of 3 captions are longer than the context of 16") as caught:
        evaluate_retrieval(model, processor, data, SPEC, progress=False, candidates=KNOWN)
    assert len([one for one in caught if "context" in str(one.message)]) == 1


def test_no_budget_is_warned_of_and_equals_clean(model, processor):
    with pytest.warns(UserWarning, match="image attack has no budget"):
        found = evaluate_retrieval(
            model, processor, captioned(6), ThreatModel.preset("quick", epsilon=0), attacks=("image",), progress=False
        )
    assert found["ranks"]["image/pgd-ce/image_to_text"] == found["ranks"]["clean/image_to_text"]
    assert [finding["passed"] for finding in found["sanity"]] == [True, None]


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (lambda data: data.remove_columns("text"), {}, "no caption column"),
        (lambda data: data.select([]), {}, "is empty"),
        (lambda data: data.to_iterable_dataset(), {}, "streamed"),
        (lambda data: data, {"text_column": "caption"}, "no column 'caption'"),
        (lambda data: data.map(lambda row: {"text": " "}), {}, "row 0 has no caption"),
        (lambda data: data.remove_columns("text").add_column("texts", [["a"], []] * 3), {}, "row 1 has no caption"),
        (lambda data: data.map(lambda row: {"text": "a photo"}), {}, "two different captions, got 6 and 1"),
        (lambda data: data, {"attacks": ("video",)}, "unknown"),
        (lambda data: data, {"max_samples": 1}, "`max_samples` must be at least 2"),
        (lambda data: data, {"batch_size": 0}, "`batch_size` must be at least 1"),
        (lambda data: data, {"threat_model": ThreatModel(template="a {}")}, "has a template"),
        (lambda data: data, {"threat_model": ThreatModel(image_attacks=())}, "`image_attacks` is empty"),
        (lambda data: data, {"threat_model": ThreatModel(text_attacks=("embedding",))}, "needs texts to present"),
        (lambda data: data, {"threat_model": "weak"}, "unknown preset"),
    ],
)
def test_bad_input_is_refused_with_a_reason(model, processor, change, options, text):
    with pytest.raises(ValueError, match=text):
        evaluate_retrieval(model, processor, change(captioned(6)), progress=False, **options)


def test_the_table_holds_every_threat():
    directions = ("image_to_text", "text_to_image")
    numbers = {f"{t}_{d}_recall_at_{k}": 0.25 for t in ("clean", "worst_case") for d in directions for k in (1, 5, 10)}
    lines = retrieval_table(numbers | {"attacks/clean/image_to_text_recall_at_1": 1.0}).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["clean", "worst"]
    assert lines[2].count("25.0") == 6


# The command


@pytest.fixture
def command(model, processor, tmp_path):
    """Arguments of an evaluation of the saved model on saved captioned squares."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    captioned(6).save_to_disk(tmp_path / "data")
    arguments = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--preset", "quick", "--cpu", "--quiet"]
    return list(map(str, [*arguments, "--num_steps", 2, "--output", tmp_path / "result.json"]))


def test_retrieval_from_the_command_line(command, tmp_path, capsys):
    assert main(["evaluate", *command, "--task", "retrieval"]) == 0
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["task"] == "retrieval" and found["attack_spec"]["num_steps"] == 2
    printed = capsys.readouterr().out
    assert "image to text" in printed and "multimodal" in printed
    assert main(["evaluate", *command, "--task", "retrieval", "--max_samples", "3"]) == 1  # another evaluation's file
    assert "overwrite" in capsys.readouterr().err


def test_captions_beside_labels_are_asked_for(command, tmp_path, capsys):
    both = squares(6).add_column("title", class_prompts([CLASS_NAMES[k] for k in squares(6)["label"]]))
    both.save_to_disk(tmp_path / "both")
    command[command.index("--dataset") + 1] = str(tmp_path / "both")
    assert main(["evaluate", *command, "--task", "retrieval"]) == 1
    assert "text_column" in capsys.readouterr().err
    assert main(["evaluate", *command, "--task", "retrieval", "--text_column", "title"]) == 0


def test_two_spellings_of_an_accent_are_one_caption(model, processor):
    rows = captioned(4)
    texts = ["a caf\u00e9", "a cafe\u0301", "a dog", "a car"]
    rows = rows.remove_columns("text").add_column("text", texts)
    pairs = read_pairs(rows, "auto", "auto", "auto", DualEncoder(model, processor), 2, None)
    assert pairs.captions == ["a caf\u00e9", "a dog", "a car"] and pairs.captions_of == [[0], [0], [1], [2]]
