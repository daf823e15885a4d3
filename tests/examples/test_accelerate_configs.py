"""The files of `examples/accelerate`, read by accelerate and transformers as a launch reads them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from transformers.integrations import HfTrainerDeepSpeedConfig, is_deepspeed_available
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hf_mmcoa import MMCoAConfig
from hf_mmcoa.training.distributed import check_sharding

FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "ddp": (DistributedType.MULTI_GPU, prepare_multi_gpu_env),
    "ddp_cpu": (DistributedType.MULTI_CPU, lambda args: prepare_simple_launcher_cmd_env(args)[1]),
    "fsdp": (DistributedType.FSDP, prepare_multi_gpu_env),
    "zero2": (DistributedType.DEEPSPEED, lambda args: prepare_deepspeed_cmd_env(args)[1]),
    "zero3": (DistributedType.DEEPSPEED, lambda args: prepare_deepspeed_cmd_env(args)[1]),
}


@pytest.fixture
def launched(monkeypatch):
    """The environment that `accelerate launch --config_file FILE` gives to a script."""

    def launch(name):
        arguments = ["--config_file", str(FOLDER / f"{name}.yaml"), "examples/train_mmcoa.py"]
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
        args.deepspeed_fields_from_accelerate_config = ""
        environment = KINDS[name][1](args)
        for variable in set(environment) - set(os.environ):
            monkeypatch.setenv(variable, str(environment[variable]))
        monkeypatch.setenv("ACCELERATE_USE_FSDP", environment.get("ACCELERATE_USE_FSDP", "false"))  # both undone
        return args

    return launch


def test_every_file_is_known():
    assert [file.stem for file in FILES] == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_every_line(name):
    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))  # raises on a field that it does not know
    assert isinstance(config, ClusterConfig) and config.distributed_type == KINDS[name][0]
    options = {action.dest for action in launch_command_parser()._actions}
    for section in ("fsdp_config", "deepspeed_config"):  # of these it drops without a word what it does not know
        assert set(yaml.safe_load(file.read_text()).get(section, {})) <= options


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_header_says_how_to_launch_and_what_was_tested(file):
    header = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    (command,) = (line for line in header if line.startswith("accelerate launch"))
    args, _ = launch_command_parser().parse_known_args(shlex.split(command)[2:])
    assert Path(args.config_file).name == file.name and args.training_script == "examples/train_mmcoa.py"
    assert any(re.match("Tested: ", line) for line in header)


def test_fsdp_is_as_the_trainer_wants_it(launched, tiny_clip):
    launched("fsdp")
    plugin = FullyShardedDataParallelPlugin()
    state = SimpleNamespace(fsdp_plugin=plugin)
    assert check_sharding(SimpleNamespace(distributed_type=DistributedType.FSDP, state=state))
    assert plugin.reshard_after_forward is True and not plugin.activation_checkpointing
    plugin.set_auto_wrap_policy(tiny_clip)  # raises if the model has no such layer
    (layer,) = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert layer is type(tiny_clip.vision_model.encoder.layers[0])


@pytest.mark.parametrize("stage", [2, 3])
def test_accelerate_makes_deepspeeds_configuration(launched, stage):
    launched(f"zero{stage}")
    plugin = DeepSpeedPlugin()
    state = SimpleNamespace(deepspeed_plugin=plugin)
    assert check_sharding(SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state)) == (stage == 3)
    config = plugin.hf_ds_config
    assert (config.is_zero2(), config.is_zero3(), config.is_offload()) == (stage == 2, stage == 3, False)
    assert {config.get_value("gradient_accumulation_steps"), config.get_value("gradient_clipping")} == {"auto"}
    # without it ZeRO-3's folders would hold no weights
    assert config.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save") == (stage == 3)
    assert not plugin.zero3_init_flag  # attacks and teachers start from whole weights


@pytest.mark.skipif(not is_deepspeed_available(), reason="transformers' part needs deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_transformers_fills_in_the_values_of_the_run(launched, tmp_path, monkeypatch, stage):
    launched(f"zero{stage}")
    config = HfTrainerDeepSpeedConfig(DeepSpeedPlugin().hf_ds_config.config)
    try:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")  # what follows starts no process
        args = MMCoAConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=6, gradient_accumulation_steps=2, max_grad_norm=0.5
        )
        config.trainer_config_process(args)
    finally:
        unset_hf_deepspeed_config()  # transformers keeps it for whoever loads a model next
    assert config.config["train_micro_batch_size_per_gpu"] == 6
    assert config.config["gradient_accumulation_steps"] == 2 and config.config["gradient_clipping"] == 0.5
