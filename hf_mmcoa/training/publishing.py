"""What a `Trainer` sends to the Hub, our way: a card made from result files, safetensors and text, never a pickle."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

PUSHED_FOLDER = "_pushed"  # in `output_dir`: what is on its way to the Hub while training goes on

logger = logging.getLogger(__name__)


class PublishingTrainer(Trainer):
    """A `Trainer` whose pushes, during training and after it, are those of `hf-mmcoa push`."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """The Trainer's, and sees that the repository holds nothing else.

        Raises:
            ValueError: if it does, or if `hub_strategy` would push checkpoints, whose optimizer state is a pickle.
            PermissionError: without a token that may write there.
            ConnectionError: if the Hub cannot be reached.
        """
        from ..hub import push  # it imports the trainer

        if self.args.push_to_hub and self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"`hub_strategy={self.args.hub_strategy}` would push optimizer.pt and rng_state.pth, "
                "which are pickles: use every_save or end. Checkpoints to resume from stay in `output_dir`."
            )
        if not self.is_world_process_zero():
            return
        model, wanted = self.accelerator.unwrap_model(self.model), self.args.hub_model_id
        adapter = getattr(model, "peft_config", {}).get("default")
        api = push.connect(token or self.args.hub_token)
        with push.telling(wanted or str(self._output_dir), self._output_dir):
            self.hub_model_id: Any = push.full_id(api, wanted or self._output_dir.absolute().name)
            push.open_repository(
                api,
                self.hub_model_id,
                (adapter or model.config).to_dict(),
                private=bool(private if private is not None else self.args.hub_private_repo),
                revision=self.args.hub_revision,
            )
        self.push_in_progress = None

    def create_model_card(  # type: ignore[override]  # what the Trainer asks its user for is read from files here
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
    ) -> None:
        """Write `README.md` of `output_dir`, from `training_args.yaml` and the results measured on these weights.

        Args:
            language, license, tags: as the Hub writes them.
            model_name: unused: the card is named like the repository.
            finetuned_from: Hub id of the base model, if the files do not say.
        """
        if self.is_world_process_zero():
            self._pack(self._output_dir, language=language, license=license, tags=tags, base_model=finetuned_from)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The Trainer's; sends what `hf-mmcoa push` sends of `output_dir`, which is no pickle.

        Args:
            commit_message, blocking, token, revision, private: the Trainer's.
            **kwargs: of `create_model_card`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        kwargs.pop("model_name", None)  # the card is named like the repository
        if "finetuned_from" in kwargs:
            kwargs["base_model"] = kwargs.pop("finetuned_from")
        package = self._pack(self._output_dir, **kwargs)
        return self._send(package, commit_message or "End of training", not blocking, token, revision)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The Trainer's, of safetensors and text only, from a copy that no later save changes."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        from ..hub.model_folder import read_checkpoint

        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        copy = self._output_dir / PUSHED_FOLDER
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        try:
            for file in read_checkpoint(checkpoint_folder).files():
                shutil.copy(file, copy)
            job = self._send(self._pack(copy), f"Training in progress, step {self.state.global_step}", True)
        except (ValueError, OSError) as error:  # the training is worth more than this push
            logger.warning("training goes on, but step %d was not pushed: %s", self.state.global_step, error)
            return
        self.push_in_progress = PushInProgress([job])  # type: ignore[assignment,arg-type]  # as the Trainer does

    def _finish_current_push(self) -> None:
        """The Trainer's, and says what went wrong."""
        super()._finish_current_push()
        for job in getattr(getattr(self, "push_in_progress", None), "jobs", ()):
            if (error := job.exception()) is not None:
                logger.warning("a push during training broke off: %s. The next push brings all of it.", error)
        self.push_in_progress = None

    def _pack(self, folder: Path, **metadata: Any) -> Any:
        """Write the folder's card; the `Package` that a push of it sends."""
        from ..hub.push import pack

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = None if sharded else self.accelerator.unwrap_model(self.model)
        return pack(folder, self.hub_model_id, model=model, other_card="keep", **metadata)

    def _send(
        self, package: Any, message: str, background: bool, token: str | None = None, revision: str | None = None
    ) -> Any:
        from ..hub import push

        repo_id, api = str(self.hub_model_id), push.connect(token or self.args.hub_token)
        with push.telling(repo_id, package.checkpoint.folder):
            return push.send(api, repo_id, package.files, message, revision or self.args.hub_revision, background)

    @property
    def _output_dir(self) -> Path:
        return Path(str(self.args.output_dir))
